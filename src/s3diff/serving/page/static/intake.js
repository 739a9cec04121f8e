// Pictures that are pasted, or dropped anywhere on the page.

/** Have `add` called with the files; `work` shows that something is held above the page. */
export function takeIn(work, add) {
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
  window.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    depth = 0;
    work.classList.remove("is-dropping");
    add([...event.dataTransfer.files]);
  });
}
