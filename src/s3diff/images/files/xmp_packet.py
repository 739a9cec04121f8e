"""Read, change, merge and split an XMP packet as a tree of properties (ISO 16684-1).

Packets are untrusted: no entities are expanded; size, depth and number of elements are limited.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeAlias
from xml.dom import Node, minidom
from xml.parsers.expat import ExpatError, ParserCreate

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XMLNS = "http://www.w3.org/2000/xmlns/"
DC = "http://purl.org/dc/elements/1.1/"
XMP_NOTE = "http://ns.adobe.com/xmp/note/"
#: A tree takes about a kilobyte for each element or attribute, and deep ones exhaust the stack.
_MAX_BYTES, _MAX_NODES, _MAX_DEPTH = 64 << 20, 100_000, 100
_DECLARATION = re.compile(r"<\?xml\s[^>]*\?>\s*")
_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"),
    (b"", "utf-8-sig"),
)  # fmt: skip


#: An element of minidom, whose declared types allow None even where a parsed tree never has it.
XmlElement: TypeAlias = Any


class XmpError(ValueError):
    """Report a packet that cannot be read, or that is made to keep a reader busy."""


def is_plain_packet(data: bytes, names: re.Pattern[bytes]) -> bool:
    """Check whether a packet is valid UTF-8 without these names of properties and namespaces: then it needs no tree."""
    if b":Description" not in data or b"\0" in data[:4] or names.search(data):
        return False
    depth = deepest = 0

    def begin(*_: Any) -> None:
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)

    def end(*_: Any) -> None:
        nonlocal depth
        depth -= 1

    parser = ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler = begin, end
    try:
        parser.Parse(_decoded(data).encode(), True)
    except (ExpatError, XmpError):
        return False
    return deepest <= _MAX_DEPTH


class XmpPacket:
    """Hold a packet's properties.

    Raises:
        XmpError: the packet is damaged, or exceeds the limits.
    """

    def __init__(self, data: bytes) -> None:
        text = _decoded(data)
        try:
            self._document: Any = minidom.parseString(text.encode())
        except (ExpatError, ValueError) as error:
            raise XmpError(str(error)) from error
        self._stored, self._changed = data, False
        self._elements = list(_elements_below(self._document.documentElement))
        self._removed: set[int] = set()
        if not self.descriptions():
            raise XmpError("it holds no rdf:Description")

    def to_bytes(self) -> bytes:
        """Return the packet; the stored bytes if nothing was changed."""
        if not self._changed:
            return self._stored
        return "\n".join(node.toxml() for node in self._document.childNodes).encode()

    def elements(self) -> Iterator[XmlElement]:
        """Yield every element of the packet, outer ones first."""
        yield from (element for element in self._elements if id(element) not in self._removed)

    def descriptions(self) -> list[XmlElement]:
        """Return the outermost ``rdf:Description`` elements, which hold the properties."""
        return [
            each
            for each in self.elements()
            if (each.namespaceURI, each.localName) == (RDF, "Description")
            and (each.parentNode.namespaceURI, each.parentNode.localName) == (RDF, "RDF")
        ]

    @staticmethod
    def names(element: XmlElement) -> list[tuple[str, str]]:
        """Return (namespace, name) of an element's properties, as attributes or as children."""
        attributes = [attribute for attribute in _attributes(element) if attribute.namespaceURI not in (RDF, XMLNS)]
        return [(each.namespaceURI or "", each.localName or "") for each in (*attributes, *_children(element))]

    @staticmethod
    def get(element: XmlElement, namespace: str, name: str) -> list[str] | None:
        """Return a property's text, or the texts of its list; None if it is missing."""
        if element.hasAttributeNS(namespace, name):
            return [element.getAttributeNS(namespace, name)]
        found = _child(element, namespace, name)
        return None if found is None else [_value(each) for each in _items(found) or [found]]

    @staticmethod
    def items(element: XmlElement, namespace: str, name: str) -> list[XmlElement]:
        """Return the elements with the properties of a list's structures; none if there is no list."""
        found = _child(element, namespace, name)
        items = [] if found is None else _items(found)
        return [_child(item, RDF, "Description") or item for item in items]

    def set(self, element: XmlElement, namespace: str, name: str, values: list[str]) -> None:
        """Change an existing property; a list gets as many items as values."""
        self._changed = True
        if element.hasAttributeNS(namespace, name):
            element.getAttributeNodeNS(namespace, name).value = values[0]
            return
        found = _child(element, namespace, name)
        if found is not None:
            for each, value in zip(_items(found) or [found], values, strict=True):
                while each.firstChild is not None:
                    each.removeChild(each.firstChild)
                each.appendChild(self._document.createTextNode(value))

    def remove(self, element: XmlElement, namespace: str, name: str) -> None:
        self._changed = True
        if element.hasAttributeNS(namespace, name):
            element.removeAttributeNS(namespace, name)
        found = _child(element, namespace, name)
        if found is not None:
            self._detach(found)

    def undeclare(self, namespaces: tuple[str, ...]) -> None:
        """Remove declarations of unused namespaces that begin with a text."""
        for element in self.elements():
            for attribute in _attributes(element):
                if attribute.namespaceURI == XMLNS and attribute.value.startswith(namespaces):
                    self._changed = True
                    element.removeAttributeNode(attribute)

    def remove_item(self, element: XmlElement) -> bool:
        """Remove the list item with an element, and with the last item the list; return whether it was in a list."""
        node = element
        while node is not None and node.nodeType == Node.ELEMENT_NODE:
            if (node.namespaceURI, node.localName) == (RDF, "li"):
                self._changed, items = True, node.parentNode
                self._detach(node)
                if not _children(items) and items.parentNode is not None:
                    self._detach(items.parentNode)
                return True
            node = node.parentNode
        return False

    def merge(self, other: XmpPacket) -> None:
        """Add the properties of another packet, such as the extended part of a long one."""
        self._changed = True
        root = self.descriptions()[0].parentNode
        for description in other.descriptions():
            copy = self._document.importNode(description, deep=True)
            _declare_all(copy, _declarations(description))
            root.appendChild(copy)
            self._elements += _elements_below(copy)

    def add(self, other: bytes, continued: tuple[str, str] | None = None) -> None:
        """Add the properties of another packet about the same picture.

        Args:
            other: a whole packet of one description.
            continued: (namespace, name) of a list in it, which is appended to the packet's own list.
        """
        about = self.descriptions()[0].getAttributeNS(RDF, "about")
        found = [_child(each, *continued) for each in self.descriptions() if continued]
        items = []
        for element in filter(None, found):
            for item in _items(element):
                _declare_all(item, _declarations(item))
                items.append(item)
            self._detach(element)
        self.merge(XmpPacket(other))
        added = self.descriptions()[-1]
        added.setAttributeNS(RDF, "rdf:about", about)
        if continued and items:
            children = _children(_child(added, *continued))[0]
            for item in items:
                children.insertBefore(item, children.lastChild)

    def split(self, max_bytes: int) -> bytes | None:
        """Move the longest properties into a second packet, until the rest has this many bytes; None if impossible."""
        moved: Any = minidom.parseString(
            f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"/></x:xmpmeta>'.encode()
        )
        root = moved.documentElement.firstChild
        properties = [
            (len(each.toxml() if each.nodeType == Node.ELEMENT_NODE else each.value), each, parent)
            for parent in self.descriptions()
            for each in (*_attributes(parent), *_children(parent))
            if each.namespaceURI not in (RDF, XMLNS)
        ]
        self._changed, num_bytes = True, len(self.to_bytes())
        for size, each, parent in sorted(properties, key=lambda found: -found[0]):
            if num_bytes <= max_bytes:
                break
            num_bytes -= size
            description = moved.createElementNS(RDF, "rdf:Description")
            description.setAttributeNS(RDF, "rdf:about", parent.getAttributeNS(RDF, "about"))
            _declare_all(description, _declarations(parent))
            if each.nodeType == Node.ELEMENT_NODE:
                description.appendChild(moved.importNode(each, deep=True))
                self._detach(each)
            else:
                description.setAttributeNS(each.namespaceURI, each.name, each.value)
                parent.removeAttributeNode(each)
            root.appendChild(description)
        return moved.documentElement.toxml().encode() if len(self.to_bytes()) <= max_bytes else None

    def add_attribute(self, namespace: str, name: str, value: str) -> None:
        """Add a property to the first description; ``name`` has its prefix."""
        self._changed = True
        first = self.descriptions()[0]
        prefix = name.split(":")[0]
        first.setAttributeNS(XMLNS, f"xmlns:{prefix}", namespace)
        first.setAttributeNS(namespace, name, value)

    def _detach(self, element: XmlElement) -> None:
        self._removed.update(id(each) for each in _elements_below(element))
        element.parentNode.removeChild(element)


def _decoded(data: bytes) -> str:
    if len(data) > _MAX_BYTES:
        raise XmpError(f"it has {len(data)} bytes")
    encoding = next(encoding for mark, encoding in _BYTE_ORDER_MARKS if data.startswith(mark))
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        raise XmpError("its text is not UTF-8") from error
    text = _DECLARATION.sub("", text.strip("\0 \t\r\n\ufeff"), count=1)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise XmpError("it declares entities")
    if text.count("<") + text.count('="') + text.count("='") > _MAX_NODES:
        raise XmpError("it has too many elements")
    return text


def _elements_below(root: XmlElement) -> Iterator[XmlElement]:
    """Yield an element and all elements below it, parents first.

    Raises:
        XmpError: elements are nested too deeply.
    """
    pending = [(root, 0)]
    while pending:
        element, depth = pending.pop()
        if depth > _MAX_DEPTH:
            raise XmpError("it is nested too deeply")
        yield element
        pending += [(child, depth + 1) for child in reversed(_children(element))]


def _children(element: XmlElement) -> list[XmlElement]:
    return [child for child in element.childNodes if child.nodeType == Node.ELEMENT_NODE]


def _attributes(element: XmlElement) -> list[Any]:
    attributes = element.attributes
    return [attributes.item(index) for index in range(attributes.length)]


def _child(element: XmlElement, namespace: str, name: str) -> XmlElement | None:
    wanted = (namespace, name)
    return next((each for each in _children(element) if (each.namespaceURI, each.localName) == wanted), None)


def _items(element: XmlElement) -> list[XmlElement]:
    """Return the items of a list (Bag, Seq or Alt)."""
    children = _children(element)
    if len(children) == 1 and children[0].namespaceURI == RDF and children[0].localName in ("Bag", "Seq", "Alt"):
        return _children(children[0])
    return []


def _value(element: XmlElement) -> str:
    """Return a simple property's value: its text, or the address it refers to."""
    if element.hasAttributeNS(RDF, "resource"):
        return str(element.getAttributeNS(RDF, "resource"))
    kinds = (Node.TEXT_NODE, Node.CDATA_SECTION_NODE)
    return "".join(node.data for node in element.childNodes if node.nodeType in kinds)


def _declarations(element: XmlElement) -> dict[str, str]:
    """Return the namespace declarations in scope at an element."""
    found: dict[str, str] = {}
    node = element
    while node is not None and node.nodeType == Node.ELEMENT_NODE:
        for attribute in _attributes(node):
            if attribute.namespaceURI == XMLNS:
                found.setdefault(attribute.name, attribute.value)
        node = node.parentNode
    return found


def _declare_all(element: XmlElement, declarations: dict[str, str]) -> None:
    for name, value in declarations.items():
        if not element.hasAttribute(name):
            element.setAttributeNS(XMLNS, name, value)
