// opencode's SDK: calls what it is told to, and tells what its streams yield. `surface` is "v1" or "v2".

import { createOpencodeClient as v1 } from "@opencode-ai/sdk"
import { createOpencodeClient as v2 } from "@opencode-ai/sdk/v2"
import { serve, tell } from "./lines.mjs"

const [surface, baseUrl, directory, authorization] = process.argv.slice(2)
const headers = authorization ? { authorization } : {}
const client = { v1, v2 }[surface]({ baseUrl, directory, headers })

const find = (path) => {
  const names = path.split(".")
  const method = names.pop()
  const owner = names.reduce((found, name) => found[name], client)
  return owner[method].bind(owner)
}

const streams = {}

await serve({
  // Answers {data} or {error, status}.
  call: async ({ path, args }) => {
    const { data, error, response } = await find(path)(...args)
    return error === undefined ? { data: data ?? null } : { error, status: response.status }
  },
  // Each value is told as {stream, value, cursor}, each trouble as {stream, trouble}, the end as {stream, ended}.
  listen: async ({ name, path, args }) => {
    const control = new AbortController()
    streams[name] = control
    let cursor
    const hooks = {
      signal: control.signal,
      onSseEvent: (event) => { cursor = event.id },
      onSseError: (error) => tell({ stream: name, trouble: String(error) }),
    }
    const { stream } = await find(path)(...args, hooks)
    void (async () => {
      for await (const value of stream) tell({ stream: name, value, cursor })
      tell({ stream: name, ended: true })
    })()
  },
  leave: ({ name }) => streams[name].abort(),
})
process.exit(0)
