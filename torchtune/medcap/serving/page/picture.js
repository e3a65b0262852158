// The image that is looked at, with the boxes and masks that answers name drawn over it.

const canvas = document.getElementById("picture");
const facts = document.getElementById("facts");
const stage = document.getElementById("stage");
const hint = document.getElementById("hint");

// regions: [{box: [left, top, right, bottom], label, color} or {mask: URL of a picture, label, color}], in shares of
// the image's size; asked: whether a box is one of the question, which has its label below it.
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
    if (region.mask) await drawMask(pen, region);
    if (region.box) drawBox(pen, region);
  }
}

function drawBox(pen, { box, label, color, asked }) {
  const [left, top, right, bottom] = box.map((share, place) => share * (place % 2 ? canvas.height : canvas.width));
  pen.lineWidth = Math.max(2, canvas.width / 250);
  pen.strokeStyle = color;
  pen.strokeRect(left, top, right - left, bottom - top);
  if (!label) return;
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

async function drawMask(pen, { mask, color }) {
  const shape = new Image();
  shape.src = mask;
  await shape.decode();
  const layer = new OffscreenCanvas(canvas.width, canvas.height);
  const brush = layer.getContext("2d");
  brush.drawImage(shape, 0, 0, canvas.width, canvas.height);
  // A mask is white where the thing is: its brightness becomes the colour's opacity.
  const pixels = brush.getImageData(0, 0, canvas.width, canvas.height);
  for (let place = 0; place < pixels.data.length; place += 4) pixels.data[place + 3] = pixels.data[place] / 2;
  brush.putImageData(pixels, 0, 0);
  brush.globalCompositeOperation = "source-in";
  brush.fillStyle = color;
  brush.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(layer, 0, 0);
}
