// Drives headless chromium for a test: node browser.mjs MODULES
//
// Reads one command a line from standard input, as JSON, and answers each with a line of JSON:
// {"go": URL}, {"type": SELECTOR, "text": TEXT}, {"click": SELECTOR}. An answer holds `url`, `text`
// of the page, and the names of its `cookies`.
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [modules] = process.argv.slice(2);
const entry = new URL('node_modules/puppeteer-core/lib/esm/puppeteer/puppeteer-core.js', pathToFileURL(`${modules}/`));
const puppeteer = (await import(entry)).default;

const browser = await puppeteer.launch({
  executablePath: '/usr/bin/chromium',
  // The system's own sandbox is not to be had as root; nobody but loopback is to be reached.
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
    '--disable-background-networking', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'],
});
const page = await browser.newPage();
page.setDefaultTimeout(20000);
console.log(JSON.stringify({ ready: true }));
try {
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    try {
      if (command.go) {
        await page.goto(command.go, { waitUntil: 'domcontentloaded' });
      } else if (command.type) {
        await page.waitForSelector(command.type);
        await page.type(command.type, command.text);
      } else if (command.click) {
        await page.waitForSelector(command.click);
        await Promise.all([page.waitForNavigation({ waitUntil: 'domcontentloaded' }), page.click(command.click)]);
      }
      const cookies = (await page.cookies()).map((cookie) => cookie.name);
      const text = await page.evaluate(() => document.body?.innerText ?? '');
      console.log(JSON.stringify({ url: page.url(), text, cookies }));
    } catch (error) {
      console.log(JSON.stringify({ error: String(error), url: page.url(), content: await page.content() }));
    }
  }
} finally {
  await browser.close();
}
