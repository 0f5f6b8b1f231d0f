// A log as lines, fed with bytes from either end. Pure.
//
// Promises: a line that was overwritten with carriage returns (a progress bar) is its last state; a
// character cut by the end of a part is put together; at most LINES_MAX lines are kept, the oldest go.

export const LINES_MAX = 50_000;
const LINE_CHARS_MAX = 20_000; // one line of megabytes would freeze the page; the file has it whole

export class LogBuffer {
  lines: string[] = [];
  /** How many lines were dropped from the front. */
  forgotten = 0;
  private rest = '';
  private decoder = new TextDecoder();

  /** True iff the last line is not finished: it is shown, and grows. */
  get open(): boolean {
    return this.rest !== '';
  }

  append(bytes: Uint8Array): number {
    const before = this.lines.length + this.forgotten;
    const text = this.rest + this.decoder.decode(bytes, { stream: true });
    const parts = text.split('\n');
    this.rest = parts.pop() ?? '';
    for (const part of parts) this.lines.push(settled(part));
    // Without a line end for long, only the last state matters (a bar that never ends its line).
    if (this.rest.length > LINE_CHARS_MAX * 4) this.rest = this.rest.slice(-LINE_CHARS_MAX);
    const over = this.lines.length - LINES_MAX;
    if (over > 0) {
      this.lines.splice(0, over);
      this.forgotten += over;
    }
    return this.lines.length + this.forgotten - before;
  }

  /** Earlier bytes in front. They must end where the first line begins. */
  prepend(bytes: Uint8Array): number {
    const parts = new TextDecoder().decode(bytes).split('\n');
    parts.pop();
    const room = LINES_MAX - this.lines.length;
    const fitting = parts.slice(-room).map(settled);
    this.lines = [...fitting, ...this.lines];
    return fitting.length;
  }

  /** What is shown: the whole lines, and the open one. */
  shown(): string[] {
    return this.open ? [...this.lines, settled(this.rest)] : this.lines;
  }
}

/** What a terminal would show of a line with carriage returns in it. */
export function settled(line: string): string {
  const end = line.endsWith('\r') ? line.slice(0, -1) : line;
  const last = end.slice(end.lastIndexOf('\r') + 1);
  return last.length > LINE_CHARS_MAX ? `${last.slice(0, LINE_CHARS_MAX)} …` : last;
}

/** Where the first whole line begins, in bytes: a part read from the middle starts within one. */
export function firstLineAt(bytes: Uint8Array): number {
  const end = bytes.indexOf(10);
  return end < 0 ? bytes.length : end + 1;
}

/** Columns a line takes in a fixed-width font; wide characters count two. */
export function columns(text: string): number {
  let n = 0;
  for (const char of text) {
    const code = char.codePointAt(0)!;
    n += code === 9 ? 8 : code >= 0x1100 && wide(code) ? 2 : 1;
  }
  return n;
}

function wide(code: number): boolean {
  return (
    code <= 0x115f ||
    (code >= 0x2e80 && code <= 0xa4cf) ||
    (code >= 0xac00 && code <= 0xd7a3) ||
    (code >= 0xf900 && code <= 0xfaff) ||
    (code >= 0xfe30 && code <= 0xfe6f) ||
    (code >= 0xff00 && code <= 0xff60) ||
    (code >= 0xffe0 && code <= 0xffe6) ||
    (code >= 0x1f300 && code <= 0x1faff) ||
    (code >= 0x20000 && code <= 0x3fffd)
  );
}

/** Rows before each line (length + 1 entries), when lines wrap at `width` columns. */
export function rowsBefore(lines: readonly string[], width: number): Int32Array {
  const before = new Int32Array(lines.length + 1);
  for (let i = 0; i < lines.length; i++) {
    const rows = width ? Math.max(1, Math.ceil(columns(lines[i]!) / width)) : 1;
    before[i + 1] = before[i]! + rows;
  }
  return before;
}

/** The line that row is in. */
export function lineAt(before: Int32Array, row: number): number {
  let low = 0;
  let high = before.length - 1;
  while (low < high - 1) {
    const middle = (low + high) >> 1;
    if (before[middle]! <= row) low = middle;
    else high = middle;
  }
  return low;
}

/** Indices of the lines that hold the text; no case when the text has none. */
export function search(lines: readonly string[], text: string): number[] {
  if (!text) return [];
  const exact = text !== text.toLowerCase();
  const found: number[] = [];
  lines.forEach((line, i) => {
    if ((exact ? line : line.toLowerCase()).includes(text)) found.push(i);
  });
  return found;
}
