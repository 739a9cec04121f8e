// Pictures that are pasted, or dropped anywhere on the page; folders with all that is in them.

/**
 * Have `add` called with the files, and the number of those in folders that are no pictures by their names' endings;
 * `work` shows that something is held above the page.
 */
export function takeIn(work, endings, add) {
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length === 0) return;
    event.preventDefault();
    add(files);
  });
  let depth = 0; // every element that is entered or left says so
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  window.addEventListener("dragenter", (event) => {
    if (carriesFiles(event)) work.classList.toggle("is-dropping", ++depth > 0);
  });
  window.addEventListener("dragleave", (event) => {
    if (carriesFiles(event)) work.classList.toggle("is-dropping", --depth > 0);
  });
  window.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  window.addEventListener("drop", async (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    depth = 0;
    work.classList.remove("is-dropping");
    // The items are readable in this turn only.
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile()).filter(Boolean);
    const found = (await Promise.all(entries.map(filesOf))).flat();
    const isWanted = ({ file, isInFolder }) => !isInFolder || endings.some((ending) => file.name.toLowerCase().endsWith(ending));
    const wanted = found.filter(isWanted);
    add(wanted.map(({ file }) => file), found.length - wanted.length);
  });
}

/** The files of what was dropped, in the order of their names, folders inside folders as well. */
async function filesOf(entry, isInFolder = false) {
  if (entry instanceof File) return [{ file: entry, isInFolder }];
  if (entry.isFile) return [{ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), isInFolder }];
  const inside = await entriesOf(entry.createReader());
  inside.sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
  return (await Promise.all(inside.map((each) => filesOf(each, true)))).flat();
}

/** A reader gives a hundred entries at a time, and none at the end. */
async function entriesOf(reader) {
  const all = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return all;
    all.push(...some);
  }
}
