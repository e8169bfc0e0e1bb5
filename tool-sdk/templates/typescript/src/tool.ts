// Every function of the world in wit/world.wit is exported under its name. A thrown value is the `err` of the function's `result`.
export function greet(name: string): string {
  if (name === "") {
    throw "the name must not be empty";
  }
  return `Hello, ${name}!`;
}
