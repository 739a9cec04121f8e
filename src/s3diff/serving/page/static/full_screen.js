// The comparison alone on the whole screen; where a browser has none for it, as on an iPhone, on the whole page.

/** Returns a function that goes there and back. */
export function setUpFullScreen(root) {
  const button = root.querySelector(".whole-screen");
  const show = (isOn) => {
    root.classList.toggle("is-whole", isOn);
    button.setAttribute("aria-pressed", String(isOn));
  };
  const turn = async () => {
    const isOn = root.classList.contains("is-whole");
    if (document.fullscreenElement) await document.exitFullscreen();
    else if (!isOn) await root.requestFullscreen?.().catch(() => {});
    show(!isOn);
  };
  button.addEventListener("click", turn);
  document.addEventListener("fullscreenchange", () => show(document.fullscreenElement === root));
  document.addEventListener("keydown", (event) => event.key === "Escape" && show(false));
  return turn;
}
