// What is drawn on the picture, or typed: a box that goes into the words, or a region.

import { $ } from "./dom.js";
import { Marks } from "./marks.js";
import * as regions from "./regions.js";

const LEAST = 4; // CSS pixels a drag must be long and high: less is a click

export const boxes = new Marks("box", "#ffd400", pixelWords);

// What a server needs to write them into a question.
export const toSend = (given) => given.map(({ image: { width, height }, box }) => ({ box, width, height }));

function pixelWords({ image, box }) {
  const [left, top, right, bottom] = box.map((share, place) => Math.round(share * (place % 2 ? image.height : image.width)));
  return `${left}, ${top} to ${right}, ${bottom}`;
}

// "words" (a box that is written into the question), or a region: "box", "brush", "point".
const tool = () => $("tool").value;
const addBox = (image, box) => (tool() === "words" ? boxes.add(image, { box }) : regions.addBox(image, box));

// The box that was typed in pixels: "120 40 300 200"; raises what is wrong with it.
function typed(text, { width, height }) {
  const numbers = text.split(/[\s,]+/).filter(Boolean).map(Number);
  if (numbers.length !== 4 || !numbers.every(Number.isFinite)) {
    throw new Error("A box is four numbers in pixels: left, top, right and bottom.");
  }
  const [left, top, right, bottom] = numbers;
  if (left >= right || top >= bottom) throw new Error("This box has no area: left must be below right, top below bottom.");
  if (left < 0 || top < 0 || right > width || bottom > height) {
    throw new Error(`This box is not within the image, which has ${width} × ${height} pixels.`);
  }
  return [left / width, top / height, right / width, bottom / height];
}

// shown returns the image in the viewer; changed is called after a box was added, failed with what is wrong.
export function listen(shown, changed, failed) {
  const canvas = $("picture");
  const frame = $("drag");
  const brush = $("brush");
  let start = null; // where a drag began, in CSS pixels of the canvas
  let way = []; // of the brush since then

  const at = (event) => {
    const edges = canvas.getBoundingClientRect();
    const within = (value, most) => Math.min(Math.max(value, 0), most);
    return [within(event.clientX - edges.left, edges.width), within(event.clientY - edges.top, edges.height)];
  };
  const sides = (event) => [at(event), start].reduce(([x, y], [u, v]) => [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)]);
  const stop = () => {
    start = null;
    way = [];
    frame.hidden = brush.hidden = true;
  };
  // Brush and point are as large as the slider says, in hundredths of the shorter side.
  const radius = (width, height) => (Number($("size").value) / 100) * Math.min(width, height);
  const inPixels = ([x, y]) => {
    const { width, height } = canvas.getBoundingClientRect();
    return [(x / width) * shown().width, (y / height) * shown().height];
  };
  const paint = () => {
    const { width, height } = canvas.getBoundingClientRect();
    brush.hidden = false;
    Object.assign(brush, { width, height });
    Object.assign(brush.style, { left: `${canvas.offsetLeft}px`, top: `${canvas.offsetTop}px` });
    const pen = brush.getContext("2d");
    pen.strokeStyle = regions.marks.color;
    regions.stroke(pen, way, Math.max(1, radius(width, height)));
  };

  canvas.addEventListener("pointerdown", (event) => {
    // A finger moves the page unless it was told to draw.
    const draws = event.pointerType !== "touch" || $("draw").getAttribute("aria-pressed") === "true";
    if (!shown() || !draws || event.button !== 0 || !event.isPrimary) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    start = at(event);
    way = [start];
    if (tool() === "brush") paint();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!start || tool() === "point") return;
    if (tool() === "brush") {
      way.push(at(event));
      return paint();
    }
    const [left, top, right, bottom] = sides(event);
    frame.hidden = false;
    Object.assign(frame.style, {
      left: `${canvas.offsetLeft + left}px`,
      top: `${canvas.offsetTop + top}px`,
      width: `${right - left}px`,
      height: `${bottom - top}px`,
    });
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!start) return;
    const image = shown();
    const [left, top, right, bottom] = sides(event);
    const [points, size] = [[...way, at(event)].map(inPixels), radius(image.width, image.height)];
    stop();
    if (tool() === "brush") regions.addStroke(image, points, size);
    if (tool() === "point") regions.addPoint(image, points.at(-1), size);
    if (tool() === "brush" || tool() === "point") return changed();
    if (right - left < LEAST || bottom - top < LEAST) return;
    const { width, height } = canvas.getBoundingClientRect();
    addBox(image, [left / width, top / height, right / width, bottom / height]);
    changed();
  });
  canvas.addEventListener("pointercancel", stop);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stop();
  });
  $("tool").addEventListener("change", () => showControls(shown(), true));
  $("draw").addEventListener("click", () => {
    const draws = $("draw").getAttribute("aria-pressed") !== "true";
    $("draw").setAttribute("aria-pressed", draws);
    canvas.classList.toggle("draws", draws);
  });
  $("mark").addEventListener("submit", (event) => {
    event.preventDefault();
    try {
      addBox(shown(), typed($("edges").value, shown()));
      $("edges").value = "";
      changed();
    } catch (error) {
      failed(error);
    }
  });
}

// The controls are there while an image is; those of regions while a run that is asked reads regions.
export function showControls(image, readsRegions) {
  $("mark").hidden = !image;
  $("tool").hidden = !readsRegions;
  if (!readsRegions) $("tool").value = "words";
  const sized = tool() === "brush" || tool() === "point";
  $("size_row").hidden = !sized;
  $("edges_row").hidden = $("add").hidden = sized;
}
