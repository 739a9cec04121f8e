// Light, dark, or as the system: a button goes round, the browser remembers.

export function setUpTheme() {
  const button = document.querySelector(".theme");
  const names = ["system", "light", "dark"];
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = names.includes(localStorage.getItem("s3diff-theme")) ? localStorage.getItem("s3diff-theme") : "system";
  const show = () => {
    const isDark = chosen === "dark" || (chosen === "system" && system.matches);
    document.body.classList.toggle("dark", isDark);
    document.documentElement.style.colorScheme = isDark ? "dark" : "light";
    const words = { system: "as the system", light: "light", dark: "dark" }[chosen];
    button.setAttribute("aria-label", `Colours: ${words}`);
    button.title = `Colours: ${words}`;
  };
  button.addEventListener("click", () => {
    chosen = names[(names.indexOf(chosen) + 1) % names.length];
    localStorage.setItem("s3diff-theme", chosen);
    show();
  });
  system.addEventListener("change", show);
  show();
}
