// How an image is looked at: image.view has the keys of a data row, with the window as a person types it.

// What a request and a row say of it; undefined where nothing was chosen.
export function viewOf(image) {
  const view = {};
  const { frames, axis, window } = image.view ?? {};
  if (frames !== undefined) view.frames = frames;
  if (axis && axis !== "axial") view.axis = axis;
  if (window) view.window = windows(window);
  return Object.keys(view).length ? view : undefined;
}

// In the form in which the chat takes it.
export function viewWords(image) {
  const { frames, axis, window } = image.view ?? {};
  const words = [];
  if (frames !== undefined) words.push(`frames=${String(frames).replace(" ", "")}`);
  if (axis && axis !== "axial") words.push(`axis=${axis}`);
  if (window) words.push(`window=${window}`);
  return words.join(" ");
}

// The numbers of the slices that a run is shown of an image; [null] of one that is no volume. As choose_frames of
// medcap.data.images.views has it.
export function framesOf(image) {
  const { frames } = image.view ?? {};
  const count = image.slices?.frames ?? 1;
  if (count === 1) return [null];
  if (typeof frames === "number") return [frames];
  const number = frames === "all" ? count : Math.min(parseInt(frames, 10), count);
  return Array.from({ length: number }, (_, part) => Math.floor(((2 * part + 1) * count) / (2 * number)));
}

// The pictures that a run is shown of images, in their order, each with its slice; null where the image has one only.
export const picturesOf = (images) =>
  images.flatMap((image) =>
    framesOf(image).map((number) => ({
      image,
      slice: number === null ? null : { axis: image.view?.axis ?? "axial", number },
    })),
  );

// "40,400" -> [40, 400]; "-100,2250/40,350/40,80" -> one for each channel.
function windows(text) {
  const pairs = text.split("/").map((pair) => pair.split(",").map(Number));
  return pairs.length === 1 ? pairs[0] : pairs;
}
