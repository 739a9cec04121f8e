// Search in pages that are opened from the disk, where browsers start no workers: the worker's script runs in a hidden
// frame instead. Loaded before the site's own scripts; does nothing on pages that a server sends.
if (location.protocol === "file:") {
  // As between a page and a worker: a copy arrives, and later.
  const send = (target, data) => {
    const copy = structuredClone(data);
    setTimeout(() => target.dispatchEvent(new MessageEvent("message", { data: copy })));
  };

  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = null;
      this.addEventListener("message", (event) => this.onmessage?.(event));
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.documentElement.append(this.frame);
      this.inside = this.frame.contentWindow;
      // What the script posts is for the page, not for its own window.
      this.inside.postMessage = (data) => send(this, data);
      this.loaded = new Promise((resolve) => {
        const script = this.frame.contentDocument.createElement("script");
        script.src = url;
        script.onload = resolve;
        this.frame.contentDocument.head.append(script);
      });
    }

    postMessage(data) {
      this.loaded.then(() => send(this.inside, data));
    }

    terminate() {
      this.onmessage = null;
      this.frame.remove();
    }
  };
}
