// The image that is looked at, with the boxes and masks that answers name drawn over it.

import { $ } from "./dom.js";
import * as masks from "./masks.js";

const canvas = $("picture");
const facts = $("facts");
const stage = $("stage");
const hint = $("hint");

// regions: [{box: [left, top, right, bottom], label, color} or {mask: from masks.js, label, color}], boxes in shares of the
// image's size; asked: whether it is one of the question, which has its label below it.
export async function show(image, regions = []) {
  canvas.hidden = !image;
  hint.hidden = Boolean(image);
  stage.classList.toggle("empty", !image);
  facts.textContent = image ? `${image.name}, ${image.width} × ${image.height}` : "";
  if (!image) return;
  const picture = await createImageBitmap(image.picture);
  // Small pictures are drawn larger, so that lines and letters over them stay thin.
  const scale = Math.max(1, Math.ceil(512 / Math.max(picture.width, picture.height)));
  canvas.width = picture.width * scale;
  canvas.height = picture.height * scale;
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = scale === 1;
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  for (const region of regions) {
    if (region.mask) drawMask(pen, region);
    if (region.box) drawBox(pen, region);
  }
  for (const { mask, label, color, asked } of regions) {
    if (mask?.box && masks.opacity()) drawLabel(pen, { box: mask.box, label, color, asked });
  }
}

function drawBox(pen, { box, label, color, asked }) {
  const [left, top, right, bottom] = inPixels(box);
  pen.lineWidth = Math.max(2, canvas.width / 250);
  pen.strokeStyle = color;
  pen.strokeRect(left, top, right - left, bottom - top);
  if (label) drawLabel(pen, { box, label, color, asked });
}

const inPixels = (box) => box.map((share, place) => share * (place % 2 ? canvas.height : canvas.width));

function drawLabel(pen, { box, label, color, asked }) {
  const [left, top, , bottom] = inPixels(box);
  const size = Math.max(12, canvas.width / 32);
  pen.font = `600 ${size}px system-ui, sans-serif`;
  const width = Math.min(pen.measureText(label).width + size * 0.6, canvas.width);
  const x = Math.max(0, Math.min(left, canvas.width - width));
  const [above, below] = [top - size * 1.4, bottom + size * 1.4];
  const y = asked ? Math.min(below, canvas.height) - size * 1.4 : above > 0 ? above : bottom;
  pen.fillStyle = color;
  pen.fillRect(x, y, width, size * 1.4);
  pen.fillStyle = asked ? "#000" : "#fff";
  pen.fillText(label, x + size * 0.3, y + size * 1.05, width - size * 0.6);
}

// Filled as the slider says; the line around it fades within the slider's last quarter only.
function drawMask(pen, { mask, color }) {
  const opacity = masks.opacity();
  const { box, path } = mask;
  if (!opacity || !box) return;
  const [red, green, blue] = [1, 3, 5].map((place) => parseInt(color.slice(place, place + 2), 16));
  pen.save();
  pen.imageSmoothingEnabled = false;
  pen.globalAlpha = opacity;
  pen.drawImage(masks.picture(mask, [red, green, blue]), 0, 0, canvas.width, canvas.height);
  pen.globalAlpha = Math.min(1, 4 * opacity);
  const line = new Path2D();
  line.addPath(path, new DOMMatrix().scale(canvas.width, canvas.height));
  for (const [width, style] of [[canvas.width / 130, "rgb(255 255 255 / .8)"], [canvas.width / 260, color]]) {
    pen.lineWidth = Math.max(2, width);
    pen.strokeStyle = style;
    pen.stroke(line);
  }
  pen.restore();
}
