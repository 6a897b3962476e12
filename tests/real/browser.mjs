// A page in headless Chromium. Whatever it asks for, nothing but the loopback is reached.

import { chromium } from "playwright-core"
import { serve } from "./lines.mjs"

const [profile, storage] = process.argv.slice(2)

const context = await chromium.launchPersistentContext(profile, {
  executablePath: "/usr/bin/chromium",
  headless: true,
  viewport: { width: 1280, height: 800 },
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
  ],
})

// What the app finds in its storage. In September 2026 it gave up the layout that has all sessions in a sidebar: for the
// page the year has just begun.
await context.addInitScript((storage) => {
  const now = Date.now
  const ago = Math.max(0, now() - Date.UTC(2026, 0, 1))
  Date.now = () => now() - ago
  for (const [key, value] of Object.entries(storage)) localStorage.setItem(key, JSON.stringify(value))
}, JSON.parse(storage))

const page = context.pages()[0]
const complaints = []
page.on("pageerror", (error) => complaints.push(`uncaught: ${error}`))
let loads = 0
page.on("load", () => loads++)

await serve({
  goto: ({ url }) => page.goto(url).then(() => null),
  // Fails with what can be read instead.
  wait: async ({ text, state, timeout_s }) => {
    try {
      await page.getByText(text, { exact: true }).first().waitFor({ state, timeout: timeout_s * 1000 })
    } catch (error) {
      throw new Error(`${error}\n${await page.locator("body").innerText()}`)
    }
  },
  state: () => ({ loads, complaints }),
})
await context.close()
