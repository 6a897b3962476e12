// How a test drives a program: a line of JSON {id, do, ...} on standard input is a command, the line {id, value} or
// {id, error} is its answer, and {told} comes by itself. Commands do not wait for each other. The end of input ends all.

import { createInterface } from "node:readline"

const write = (value) => process.stdout.write(JSON.stringify(value) + "\n")

export const tell = (told) => write({ told })

export async function serve(commands) {
  for await (const line of createInterface({ input: process.stdin })) {
    const { id, do: name, ...command } = JSON.parse(line)
    Promise.resolve()
      .then(() => commands[name](command))
      .then((value) => write({ id, value: value ?? null }), (error) => write({ id, error: String(error?.stack ?? error) }))
  }
}
