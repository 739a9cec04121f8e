// Search in pages that are opened from the disk, where browsers start no workers: the worker's script runs in a hidden
// frame instead. Loaded before the site's own scripts; does nothing on pages that a server sends.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.documentElement.append(frame);
      const inside = frame.contentWindow;
      // What the script posts is for the page, not for its own window.
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.post = (data) => inside.dispatchEvent(new MessageEvent("message", { data }));
      this.loaded = new Promise((resolve) => {
        const script = frame.contentDocument.createElement("script");
        script.src = url;
        script.onload = resolve;
        frame.contentDocument.head.append(script);
      });
    }

    postMessage(data) {
      this.loaded.then(() => this.post(data));
    }

    set onmessage(listener) {
      this.addEventListener("message", listener);
    }

    terminate() {}
  };
}
