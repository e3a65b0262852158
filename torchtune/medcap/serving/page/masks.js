// Masks of answers: read from run-lengths, drawn over the image, and saved as pictures.

import { $, make } from "./dom.js";
import { picturesOf } from "./view.js";

// A mask in COCO's compressed form, column by column, as medcap.data.regions.run_length has it:
// {width, height, inside: a byte for each pixel, row by row, 1 inside}.
export function decode({ size: [height, width], counts }) {
  const inside = new Uint8Array(width * height);
  const lengths = [];
  for (let at = 0; at < counts.length; ) {
    let [value, shift, digit] = [0, 0, 0x20];
    while (digit & 0x20 && at < counts.length) {
      digit = counts.charCodeAt(at++) - 48;
      value += (digit & 0x1f) * 2 ** shift;
      shift += 5;
    }
    if (digit & 0x10) value -= 2 ** shift;
    lengths.push(lengths.length > 2 ? value + lengths.at(-2) : value);
  }
  let start = 0;
  lengths.forEach((length, number) => {
    if (number % 2) {
      for (let place = start; place < start + length; place += 1) {
        inside[(place % height) * width + Math.floor(place / height)] = 1;
      }
    }
    start += length;
  });
  return { width, height, inside };
}

// The inverse of decode.
export function encode({ width, height, inside }) {
  const lengths = [];
  let [value, length] = [0, 0];
  for (let column = 0; column < width; column += 1) {
    for (let row = 0; row < height; row += 1) {
      const now = inside[row * width + column];
      if (now !== value) {
        lengths.push(length);
        [value, length] = [now, 0];
      }
      length += 1;
    }
  }
  lengths.push(length);
  let counts = "";
  lengths.forEach((whole, number) => {
    let left = number > 2 ? whole - lengths[number - 2] : whole;
    for (let more = true; more; ) {
      const digit = left & 0x1f;
      left >>= 5;
      more = digit & 0x10 ? left !== -1 : left !== 0;
      counts += String.fromCharCode((more ? digit | 0x20 : digit) + 48);
    }
  });
  return { size: [height, width], counts };
}

// The masks of an answer, each on its image, and on its slice where that has several; a null stays one.
// seen: the images that the run was sent.
export function read(masks, seen) {
  const singles = picturesOf(seen);
  return masks.map(({ mask, image, label }, place) => ({
    name: [`mask ${place + 1}`, label].filter(Boolean).join(" "),
    label: label ?? `mask ${place + 1}`,
    mask: mask && measured(decode(mask)),
    runLength: mask,
    ...singles[image],
  }));
}

// With what it takes to draw it again and again.
export const measured = (mask) => ({ ...mask, box: around(mask), path: outline(mask) });

// Along the edges of the pixels, in shares of the image.
function outline({ width, height, inside }) {
  const path = new Path2D();
  const at = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : inside[y * width + x]);
  const lines = (rows, columns, differs, line) => {
    for (let row = 0; row <= rows; row += 1) {
      for (let column = 0; column < columns; column += 1) {
        if (!differs(row, column)) continue;
        const start = column;
        while (column + 1 < columns && differs(row, column + 1)) column += 1;
        line(row, start, column + 1);
      }
    }
  };
  lines(height, width, (y, x) => at(x, y) !== at(x, y - 1), (y, start, end) => {
    path.moveTo(start / width, y / height);
    path.lineTo(end / width, y / height);
  });
  lines(width, height, (x, y) => at(x, y) !== at(x - 1, y), (x, start, end) => {
    path.moveTo(x / width, start / height);
    path.lineTo(x / width, end / height);
  });
  return path;
}

// The edges of the rectangle around a mask, in shares of the image; null for an empty one.
function around({ width, height, inside }) {
  let [left, top, right, bottom] = [width, height, 0, 0];
  inside.forEach((value, place) => {
    if (!value) return;
    const [x, y] = [place % width, Math.floor(place / width)];
    [left, top] = [Math.min(left, x), Math.min(top, y)];
    [right, bottom] = [Math.max(right, x + 1), Math.max(bottom, y + 1)];
  });
  return right ? [left / width, top / height, right / width, bottom / height] : null;
}

// A picture of a mask: color inside, and outside null (nothing) or another colour; each [red, green, blue].
export function picture({ width, height, inside }, color, outside = null) {
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d");
  const pixels = pen.createImageData(width, height);
  inside.forEach((value, place) => {
    const shown = value ? color : outside;
    if (shown) pixels.data.set([...shown, 255], 4 * place);
  });
  pen.putImageData(pixels, 0, 0);
  return canvas;
}

export const opacity = () => Number($("opacity").value) / 100;

// The slider is there while a mask is in sight; changed is called when it is moved.
export const showControls = (there) => ($("masks").hidden = !there);
export const listen = (changed) => $("opacity").addEventListener("input", changed);

// A button for each mask of an answer that saves it, white on black, at the size of the image.
export function buttons(masks) {
  return masks
    .filter(({ mask }) => mask)
    .map(({ name, mask }) => {
      const button = make("button", { type: "button", className: "small", title: "Save as PNG", textContent: `${name} ↓` });
      button.addEventListener("click", async () => {
        const file = await picture(mask, [255, 255, 255], [0, 0, 0]).convertToBlob();
        const link = make("a", { href: URL.createObjectURL(file), download: `${name.replaceAll(/[^\p{L}\p{N}]+/gu, "_")}.png` });
        link.click();
        URL.revokeObjectURL(link.href);
      });
      return button;
    });
}
