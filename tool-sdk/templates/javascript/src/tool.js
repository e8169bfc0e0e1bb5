// Every function of the world in wit/world.wit is exported under its name. What it throws is the `err` of its `result`.
export function greet(name) {
  if (name === "") {
    throw "the name must not be empty";
  }
  return `Hello, ${name}!`;
}
