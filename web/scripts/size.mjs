// Fails when the first load (what index.html names, and what that imports statically) is more than
// 90 kB of gzipped JS and CSS. Fonts and lazy chunks are listed, but not counted.
import { readFileSync, readdirSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const FIRST_LOAD_BYTES_MAX = 90_000;
const root = new URL('../../src/madang/_web/', import.meta.url);
const html = readFileSync(new URL('index.html', root), 'utf8');
const first = new Set();
const visit = (name) => {
  if (first.has(name)) return;
  first.add(name);
  if (!name.endsWith('.js')) return;
  const text = readFileSync(new URL(name, root), 'utf8');
  for (const [, found] of text.matchAll(/(?:from|import)\s*"\.\/([^"]+\.js)"/g))
    visit(`assets/${found}`);
};
for (const [, name] of html.matchAll(/(?:src|href)="\/(assets\/[^"]+\.(?:js|css))"/g)) visit(name);

let total = 0;
for (const entry of readdirSync(new URL('assets/', root)).sort()) {
  const name = `assets/${entry}`;
  const bytes = readFileSync(new URL(name, root));
  const text = /\.(js|css)$/.test(name);
  const size = text ? gzipSync(bytes, { level: 9 }).length : bytes.length;
  if (first.has(name)) total += size;
  console.log(`${first.has(name) ? 'first' : 'later'} ${String(size).padStart(7)} ${name}`);
}
console.log(`first load: ${total} bytes gzipped of JS and CSS; at most ${FIRST_LOAD_BYTES_MAX}`);
if (total === 0 || total > FIRST_LOAD_BYTES_MAX) process.exit(1);
