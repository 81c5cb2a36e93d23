// The search of the theme runs in a Worker, which browsers refuse to pages that are opened from disk. There, an iframe
// takes its place: it runs the worker's script and exchanges messages with the page.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.onmessage = this.onerror = null
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.frame.title = "search"
      document.body.appendChild(this.frame)
      const inner = this.frame.contentWindow
      this.ready = new Promise((resolve) => {
        const answer = (data) => {
          const event = new MessageEvent("message", { data })
          this.dispatchEvent(event)
          if (this.onmessage) this.onmessage(event)
        }
        inner.document.open()
        inner.document.write("<!doctype html><html lang=en><title>search</title><body></body></html>")
        inner.document.close()
        inner.postMessage = answer
        inner.importScripts = (...sources) =>
          sources.reduce((before, source) => before.then(() => this.load(source)), Promise.resolve())
        this.load(url).then(resolve)
      })
    }

    load(source) {
      const inner = this.frame.contentDocument
      return new Promise((resolve, reject) => {
        const script = inner.createElement("script")
        script.src = source
        script.onload = resolve
        script.onerror = () => {
          if (this.onerror) this.onerror(new ErrorEvent("error", { filename: source }))
          reject(new Error(`${source} cannot be loaded`))
        }
        inner.body.appendChild(script)
      })
    }

    postMessage(data) {
      this.ready.then(() => {
        const inner = this.frame.contentWindow
        inner.dispatchEvent(new inner.MessageEvent("message", { data: structuredClone(data) }))
      })
    }

    terminate() {
      this.frame.remove()
    }
  }
}
