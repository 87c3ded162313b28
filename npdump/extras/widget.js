// SPDX-License-Identifier: GPL-2.0-or-later
// The map of memory: asks for the part of a picture that is seen, colours it, and says what is under the pointer.

const HEIGHT = 480;
const FONT = "13px/1.5 system-ui, sans-serif";

function element(tag, style, text = "") {
  const made = document.createElement(tag);
  made.style.cssText = style;
  made.textContent = text;
  return made;
}

function paletteOf(colors) {
  // The first one is of what is no memory: the background shows.
  return Uint32Array.from(colors, (color, kind) => {
    const rgb = parseInt(color.slice(1), 16);
    return kind && (0xff000000 | ((rgb & 0xff) << 16) | (rgb & 0xff00) | (rgb >> 16)) >>> 0;
  });
}

function legendOf(entries) {
  const legend = element("div", "display:flex;flex-wrap:wrap;gap:2px 14px;margin:6px 0");
  for (const [name, color, size] of entries) {
    const entry = element("span", "white-space:nowrap");
    entry.append(
      element("span", `display:inline-block;width:11px;height:11px;margin-right:5px;background:${color};border:1px solid #8888`),
      `${name} ${size}`,
    );
    legend.append(entry);
  }
  return legend;
}

function render({ model, el }) {
  const [baseWidth, baseHeight, nLevels] = model.get("size");
  const palette = paletteOf(model.get("colors"));
  const canvas = element("canvas", "width:100%;touch-action:none;cursor:crosshair;border:1px solid #8886;display:block");
  const words = element("div", "margin:4px 0;min-height:12em");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${model.get("title")}: arrows move, + and - zoom, 0 shows all`);
  words.setAttribute("aria-live", "polite");
  const root = element("div", `font:${FONT};color:inherit`);
  root.append(element("strong", "", model.get("title")), legendOf(model.get("legend")), canvas, words);
  el.append(root);

  // The point of the first picture in the upper left corner, and points for each pixel of the screen.
  let view = { x: 0, y: 0, scale: 1 };
  let wanted = 0;
  let waiting = false;
  let again = false;
  let timer = 0;
  let last = null;

  function fit() {
    view.scale = Math.max(baseWidth / canvas.width, baseHeight / canvas.height);
    view.x = (baseWidth - canvas.width * view.scale) / 2;
    view.y = (baseHeight - canvas.height * view.scale) / 2;
  }

  // What was seen last is shown at once where it now belongs, until what is wanted has come.
  function paint() {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!last) return;
    const size = 2 ** last.level / view.scale;
    const [x, y] = [last.x * size - view.x / view.scale, last.y * size - view.y / view.scale];
    context.imageSmoothingEnabled = false;
    context.drawImage(last.picture, x, y, last.width * size, last.height * size);
  }

  function ask() {
    paint();
    if (waiting) {
      again = true;
      return;
    }
    const level = Math.max(0, Math.min(nLevels - 1, Math.floor(Math.log2(view.scale) + 0.01)));
    const points = view.scale / 2 ** level;
    const x = Math.floor(view.x / 2 ** level);
    const y = Math.floor(view.y / 2 ** level);
    const width = Math.ceil(canvas.width * points) + 2;
    const height = Math.ceil(canvas.height * points) + 2;
    waiting = true;
    model.send({ kind: "view", id: ++wanted, level, x, y, width, height });
  }

  function show(message, bytes) {
    const image = new ImageData(message.width, message.height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < pixels.length; i++) pixels[i] = palette[bytes[i]];
    const picture = new OffscreenCanvas(message.width, message.height);
    picture.getContext("2d").putImageData(image, 0, 0);
    last = { ...message, picture };
    paint();
  }

  model.on("msg:custom", (message, buffers) => {
    if (message.kind === "view") {
      waiting = false;
      const data = buffers[0];
      show(message, new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength));
      if (again) {
        again = false;
        ask();
      }
    } else if (message.kind === "page") {
      words.innerHTML = message.html;
    }
  });

  function zoom(factor, atX, atY) {
    const scale = Math.max(1 / 16, Math.min(view.scale * factor, (4 * Math.max(baseWidth, baseHeight)) / canvas.width));
    view.x += atX * (view.scale - scale);
    view.y += atY * (view.scale - scale);
    view.scale = scale;
    ask();
  }

  function move(x, y) {
    view.x -= x * view.scale;
    view.y -= y * view.scale;
    ask();
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    const ratio = canvas.width / box.width;
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  }

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(2 ** (event.deltaY / 300), ...place(event));
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons) move(event.movementX, event.movementY);
    const [x, y] = place(event);
    clearTimeout(timer);
    timer = setTimeout(() => model.send({
      kind: "page", x: Math.floor(view.x + x * view.scale), y: Math.floor(view.y + y * view.scale),
    }), 60);
  });
  canvas.addEventListener("keydown", (event) => {
    const [x, y] = [canvas.width / 2, canvas.height / 2];
    const keys = {
      ArrowLeft: () => move(40, 0), ArrowRight: () => move(-40, 0), ArrowUp: () => move(0, 40), ArrowDown: () => move(0, -40),
      "+": () => zoom(1 / 1.5, x, y), "=": () => zoom(1 / 1.5, x, y), "-": () => zoom(1.5, x, y), 0: () => { fit(); ask(); },
    };
    if (keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  });

  const observer = new ResizeObserver(() => {
    if (!canvas.clientWidth || canvas.clientWidth === canvas.width) return;
    canvas.width = canvas.clientWidth;
    canvas.height = HEIGHT;
    if (!last) fit();
    ask();
  });
  observer.observe(canvas);
  return () => observer.disconnect();
}

export default { render };
