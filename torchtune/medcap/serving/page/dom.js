// Elements of the page, and its line for problems.

export const $ = (id) => document.getElementById(id);

export function make(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

export function complain(error) {
  $("problem").textContent = error.message;
  $("problem").hidden = false;
}

export function quiet() {
  $("problem").hidden = true;
}
