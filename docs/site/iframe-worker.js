// A browser starts no worker from a page that was only opened from the disk, and search is one: there it runs in a
// hidden frame. By its name the generator knows this file, and loads none of another host.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(url) {
      const waiting = [];
      this.postMessage = (data) => waiting.push(data);
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.addEventListener("load", () => this.start(String(url), waiting), { once: true });
      document.body.append(this.frame);
    }

    start(url, waiting) {
      const inside = this.frame.contentWindow;
      const deliver = (data) => setTimeout(() => inside.dispatchEvent(new inside.MessageEvent("message", { data })));
      inside.postMessage = (data) => setTimeout(() => this.onmessage?.({ data }));
      const script = inside.document.createElement("script");
      script.src = url;
      script.onload = () => {
        this.postMessage = deliver;
        waiting.forEach(deliver);
      };
      script.onerror = (event) => this.onerror?.(event);
      inside.document.head.append(script);
    }

    terminate() {
      this.frame.remove();
    }
  };
}
