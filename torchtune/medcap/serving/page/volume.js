// The slices of a volume, and the window of its greys: what is looked at, and what a run will be shown.

import * as api from "./api.js";
import { $ } from "./dom.js";
import { pictureOf } from "./files.js";

// Reads the slices of an image through its axis and window. changed is called once they are there.
export async function load(image, changed) {
  const { axis = "axial", window = "" } = image.view ?? {};
  image.slices = await api.slices(image.blob, axis, window);
  const { numbers } = image.slices;
  image.place = Math.min(image.place ?? Math.floor(numbers.length / 2), numbers.length - 1);
  turnTo(image, image.place);
  await changed(image);
}

// Puts a slice into the viewer; where the run sees "this slice", it sees that one.
export function turnTo(image, place) {
  const { numbers, pictures, width, height, frames } = image.slices;
  image.place = place;
  image.picture = pictureOf(pictures[place]);
  image.width = width;
  image.height = height;
  if (frames > 1 && typeof image.view?.frames !== "string") image.view = { ...image.view, frames: numbers[place] };
}

// Shows the controls of the image in the viewer; those of an image that was asked about stay as they are.
export function showControls(image, fixed) {
  const there = Boolean(image?.slices);
  $("volume").hidden = !there;
  if (!there) return;
  const { frames, numbers } = image.slices;
  const several = frames > 1;
  for (const id of ["slice_row", "axis_row", "frames_row"]) $(id).hidden = !several;
  $("slice").max = numbers.length - 1;
  $("slice").value = image.place;
  $("slice_number").textContent = `${numbers[image.place] + 1} of ${frames}`;
  $("axis").value = image.view?.axis ?? "axial";
  $("window").value = image.view?.window ?? "";
  $("frames").value = typeof image.view?.frames === "string" ? image.view.frames : "this";
  for (const id of ["axis", "window", "frames"]) $(id).disabled = fixed;
}

// shown returns the image in the viewer; changed is called when something else is to be seen, failed with an error.
export function listen(shown, changed, failed) {
  const change = async (key, value) => {
    const image = shown();
    const before = image.view;
    image.view = { ...before, [key]: value };
    if (key === "axis") image.place = undefined;
    try {
      if (key !== "frames") return await load(image, changed);
      turnTo(image, image.place);
      await changed(image);
    } catch (error) {
      image.view = before;
      failed(error);
      await changed(image);
    }
  };
  $("slice").addEventListener("input", async () => {
    const image = shown();
    const { view } = image;
    turnTo(image, Number($("slice").value));
    // What a run was shown does not change by looking on.
    if ($("axis").disabled) image.view = view;
    await changed(image);
  });
  $("axis").addEventListener("change", () => change("axis", $("axis").value));
  $("window").addEventListener("change", () => change("window", $("window").value.replaceAll(/\s/g, "")));
  $("frames").addEventListener("change", () =>
    change("frames", $("frames").value === "this" ? undefined : $("frames").value),
  );
}
