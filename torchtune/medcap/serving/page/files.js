// Files and pictures as the page and the server need them.

import { ServerError } from "./api.js";
import { make } from "./dom.js";

const MAX_THUMBNAIL = 120;

export const dataURL = (blob) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => {
      // The server goes by the content; a browser does not know what DICOM is.
      const [, base64 = ""] = reader.result.split(",");
      resolve(`data:application/octet-stream;base64,${base64}`);
    };
    reader.onerror = () => reject(new ServerError(0, "The file cannot be read."));
    reader.readAsDataURL(blob);
  });

export async function smaller(blob) {
  const picture = await createImageBitmap(blob);
  const scale = Math.min(1, MAX_THUMBNAIL / Math.min(picture.width, picture.height));
  const canvas = make("canvas", {
    width: Math.max(1, Math.round(picture.width * scale)),
    height: Math.max(1, Math.round(picture.height * scale)),
  });
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL();
}

// The picture that a data: address holds; the page may not fetch one.
export function pictureOf(address) {
  const [head, base64] = address.split(",");
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: head.slice(5, head.indexOf(";")) });
}
