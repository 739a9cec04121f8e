"""List every EXIF and XMP field that is in picture coordinates or sizes, and how it follows the picture.

The functions are in :mod:`s3diff.images.files.coordinates`. Several rows may begin with the same name: the
first one applies whose names all exist and whose condition holds. Maker notes are not listed: they describe the
exposure in the maker's own terms and sizes, and stay byte for byte.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from s3diff.images.files import coordinates as follow
from s3diff.images.files.coordinates import Follow, Numbers, Transform, moved_fractions

#: XMP namespaces by their usual prefix.
NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "crs": "http://ns.adobe.com/camera-raw-settings/1.0/",
    "stArea": "http://ns.adobe.com/xmp/sType/Area#",
    "stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "acdsee-stArea": "http://ns.acdsee.com/sType/Area#",
    "acdsee-stDim": "http://ns.acdsee.com/sType/Dimensions#",
    "MPReg": "http://ns.microsoft.com/photo/1.2/t/Region#",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "GPano": "http://ns.google.com/photos/1.0/panorama/",
    "GFocus": "http://ns.google.com/photos/1.0/focus/",
    "drone-dji": "http://www.dji.com/drone-dji/1.0/",
    "Camera": "http://pix4d.com/camera/1.0/",
    "aas": "http://ns.apple.com/adjustment-settings/1.0/",
    "apple-fi": "http://ns.apple.com/faceinfo/1.0/",
}
Condition = tuple[str, tuple[str, ...]]
_ANY: Condition = ("", ("",))


class Unit(Enum):
    """Name the unit of coordinates; the last number of a circle may be a fraction of the width."""

    PIXELS = 1
    FRACTIONS = 2
    FRACTIONS_OF_WIDTH = 3


class Field(NamedTuple):
    """Describe one property, or several that are read together.

    Attributes:
        place: EXIF's directory (``IFD0``, ``ExifIFD``, ``InteropIFD``) or the XMP namespace's prefix.
        names: EXIF tags or XMP names, in the order of the numbers that ``follow`` takes. One name may hold several
            numbers.
        follow: computes the new numbers, as pixels.
        title: name in remarks.
        unit: unit of the coordinates.
        condition: a property of the same structure or one around it, and its allowed values; an empty value means its
            absence.
        is_item: whether the whole item of a list is removed if the field cannot follow.
    """

    place: str
    names: tuple[str | int, ...]
    follow: Follow
    title: str
    unit: Unit = Unit.PIXELS
    condition: Condition = _ANY
    is_item: bool = False

    @property
    def is_exif(self) -> bool:
        """Whether the names are tags of an EXIF block."""
        return self.place not in NAMESPACES

    def moved(self, values: Numbers, transform: Transform) -> Numbers | None:
        """Return the numbers for the result; None if the field cannot follow."""
        if len(values) not in follow.COUNTS.get(self.follow, (len(values),)):
            return None
        if self.unit is Unit.PIXELS:
            return self.follow(values, transform)
        return moved_fractions(self.follow, values, transform, of_width=self.unit is Unit.FRACTIONS_OF_WIDTH)


_PIXELS, _FRACTIONS = Unit.PIXELS, Unit.FRACTIONS
_IN_PIXELS, _IN_FRACTIONS = ("unit", ("pixel", "pixels")), ("unit", ("normalized", "normalised", ""))
_IPTC_PIXELS = ("rbUnit", ("pixel",))
_DIMENSIONS = ("unit", ("pixel", "pixels", ""))
_CROP_IN_PIXELS = ("CropUnit", ("0", ""))
_NOT_OBLIQUE = ("CropAngle", ("", *(f"{0:.{digits}f}" for digits in range(9))))
_REGION, _IPTC_REGION, _PANORAMA, _CROP = "a region of the picture", "an image region", "the panorama's frame", "a crop"


def _area(prefix: str) -> tuple[Field, ...]:
    """Make the rows of MWG's area, by its center, which ACDSee has copied."""
    shapes = ((("x", "y", "w", "h"), follow.centered_box), (("x", "y", "d"), follow.circle), (("x", "y"), follow.point))
    units = ((_PIXELS, _IN_PIXELS), (_FRACTIONS, _IN_FRACTIONS))
    return tuple(
        Field(prefix, names, function, _REGION, unit, condition, is_item=True)
        for names, function in shapes
        for unit, condition in units
    )


def _iptc(names: tuple[str, ...], function: Follow, fractions: Unit, title: str) -> tuple[Field, ...]:
    return (
        Field("Iptc4xmpExt", names, function, title, _PIXELS, _IPTC_PIXELS, is_item=True),
        Field("Iptc4xmpExt", names, function, title, fractions, is_item=True),
    )


def _each(place: str, names: tuple[str, ...], function: Follow, title: str) -> tuple[Field, ...]:
    return tuple(Field(place, (name,), function, title) for name in names)


FIELDS: tuple[Field, ...] = (
    # EXIF 3.0 (CIPA DC-008) and DCF (CIPA DC-009)
    Field("IFD0", (0x0112,), follow.upright, "Orientation"),
    Field("IFD0", (0x0100,), follow.own_width, "ImageWidth"),
    Field("IFD0", (0x0101,), follow.own_height, "ImageLength"),
    Field("IFD0", (0x011A, 0x011B), follow.resolution, "XResolution and YResolution"),
    Field("ExifIFD", (0xA002,), follow.own_width, "PixelXDimension"),
    Field("ExifIFD", (0xA003,), follow.own_height, "PixelYDimension"),
    Field("ExifIFD", (0xA20E, 0xA20F), follow.density, "FocalPlaneXResolution and FocalPlaneYResolution"),
    Field("ExifIFD", (0x9214,), follow.subject_area, "SubjectArea"),
    Field("ExifIFD", (0xA214,), follow.point, "SubjectLocation"),
    Field("InteropIFD", (0x1001,), follow.own_width, "RelatedImageWidth"),
    Field("InteropIFD", (0x1002,), follow.own_height, "RelatedImageLength"),
    # XMP, part 2: the namespaces tiff and exif
    Field("tiff", ("Orientation",), follow.upright, "tiff:Orientation"),
    Field("tiff", ("ImageWidth",), follow.own_width, "tiff:ImageWidth"),
    Field("tiff", ("ImageLength",), follow.own_height, "tiff:ImageLength"),
    Field("tiff", ("XResolution", "YResolution"), follow.resolution, "tiff:XResolution and YResolution"),
    Field("exif", ("PixelXDimension",), follow.own_width, "exif:PixelXDimension"),
    Field("exif", ("PixelYDimension",), follow.own_height, "exif:PixelYDimension"),
    Field("exif", ("FocalPlaneXResolution", "FocalPlaneYResolution"), follow.density, "exif:FocalPlaneXResolution"),
    Field("exif", ("SubjectArea",), follow.subject_area, "exif:SubjectArea"),
    Field("exif", ("SubjectLocation",), follow.point, "exif:SubjectLocation"),
    # Regions: Metadata Working Group, ACDSee, Microsoft, IPTC
    Field("stDim", ("w", "h"), follow.sides, "the dimensions of regions", _PIXELS, _DIMENSIONS),
    Field("acdsee-stDim", ("w", "h"), follow.sides, "the dimensions of regions", _PIXELS, _DIMENSIONS),
    *_area("stArea"),
    *_area("acdsee-stArea"),
    Field("mwg-rs", ("Rotation",), follow.angle, "the angle of a region"),
    Field("apple-fi", ("AngleInfoRoll",), follow.only_scaled, "the angle of a face"),
    Field("MPReg", ("Rectangle",), follow.box, _REGION, _FRACTIONS, is_item=True),
    *_iptc(("rbX", "rbY", "rbW", "rbH"), follow.box, _FRACTIONS, _IPTC_REGION),
    *_iptc(("rbX", "rbY", "rbRx"), follow.circle, Unit.FRACTIONS_OF_WIDTH, _IPTC_REGION),
    *_iptc(("rbX", "rbY"), follow.point, _FRACTIONS, "a corner of an image region"),
    # Google: photo spheres and focus
    Field(
        "GPano",
        ("FullPanoWidthPixels", "FullPanoHeightPixels", "CroppedAreaImageWidthPixels", "CroppedAreaImageHeightPixels",
         "CroppedAreaLeftPixels", "CroppedAreaTopPixels"),
        follow.panorama, _PANORAMA,
    ),
    Field("GPano", ("FullPanoWidthPixels", "FullPanoHeightPixels"), follow.only_uncut, _PANORAMA),
    Field("GPano", ("CroppedAreaImageWidthPixels", "CroppedAreaImageHeightPixels"), follow.only_uncut, _PANORAMA),
    Field("GPano", ("CroppedAreaLeftPixels", "CroppedAreaTopPixels"), follow.never, _PANORAMA),
    Field(
        "GPano",
        ("LargestValidInteriorRectLeft", "LargestValidInteriorRectTop", "LargestValidInteriorRectWidth",
         "LargestValidInteriorRectHeight"),
        follow.box, "the panorama's inner rectangle",
    ),
    *_each(
        "GPano",
        ("PoseHeadingDegrees", "PosePitchDegrees", "PoseRollDegrees", "InitialViewHeadingDegrees",
         "InitialViewPitchDegrees", "InitialViewRollDegrees", "InitialHorizontalFOVDegrees",
         "InitialVerticalFOVDegrees"),
        follow.only_scaled, "the panorama's angles",
    ),
    Field("GFocus", ("FocalPointX", "FocalPointY"), follow.point, "the point of focus", _FRACTIONS),
    # Camera Raw: steps that a raw developer still has to carry out
    Field("crs", ("CropLeft", "CropTop", "CropRight", "CropBottom"), follow.edges, _CROP, _FRACTIONS, _NOT_OBLIQUE),
    Field("crs", ("CropLeft", "CropTop", "CropRight", "CropBottom"), follow.only_scaled, _CROP),
    Field("crs", ("CropWidth", "CropHeight"), follow.only_uncut, "the size of a crop", _PIXELS, _CROP_IN_PIXELS),
    Field("crs", ("CropWidth", "CropHeight"), follow.resolution, "the size of a crop"),
    *_each(
        "crs",
        ("PaintBasedCorrections", "GradientBasedCorrections", "CircularGradientBasedCorrections", "RetouchAreas",
         "RetouchInfo", "RedEyeInfo", "MaskGroupBasedCorrections"),
        follow.only_scaled, "corrections of parts of the picture",
    ),
    # Drones: the lens in pixels; Apple's unfinished crop
    Field("drone-dji", ("CalibratedOpticalCenterX", "CalibratedOpticalCenterY"), follow.point, "the optical center"),
    Field("drone-dji", ("CalibratedFocalLength",), follow.length, "the focal length in pixels"),
    Field("drone-dji", ("DewarpData",), follow.never, "the lens's distortion in pixels"),
    Field("Camera", ("VignettingCenter",), follow.point, "the center of vignetting"),
    *_each("Camera", ("VignettingPolynomial", "VignettingPolynomial2D"), follow.never, "vignetting in pixels"),
    *_each(
        "Camera", ("PrincipalPoint", "PerspectiveDistortion", "FisheyeAffineMatrix"), follow.only_scaled,
        "the lens's center",
    ),
    *_each(
        "aas",
        ("CropX", "CropY", "CropW", "CropH", "AffineA", "AffineB", "AffineC", "AffineD", "AffineX", "AffineY"),
        follow.never, "a crop of Apple's adjustments",
    ),
)  # fmt: skip
