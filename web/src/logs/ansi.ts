// Colours of a terminal, as spans. Pure. Everything but colour and weight is dropped: a log is text
// to read, and nothing in it may move a cursor, set a title or open a link.

export interface Style {
  /** Index 0..15 of the terminal's own colours, or a CSS colour, or null. */
  fg: number | string | null;
  bg: number | string | null;
  bold: boolean;
  dim: boolean;
  italic: boolean;
  underline: boolean;
}

export interface Span {
  text: string;
  style: Style;
}

export const PLAIN: Style = {
  fg: null,
  bg: null,
  bold: false,
  dim: false,
  italic: false,
  underline: false,
};

// CSI with any ending, OSC up to BEL or ST, two-byte escapes, and stray control characters.
const ESCAPE =
  // eslint-disable-next-line no-control-regex
  /\x1b\[([0-9;:?<=>]*)([ -/]*)([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-_]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]/g;

/** The line's spans, and the style that the next line begins with. */
export function spans(line: string, from: Style): { spans: Span[]; style: Style } {
  const found: Span[] = [];
  let style = from;
  let at = 0;
  for (const match of line.matchAll(ESCAPE)) {
    if (match.index > at) found.push({ text: line.slice(at, match.index), style });
    at = match.index + match[0].length;
    if (match[3] === 'm') style = painted(style, match[1] ?? '');
  }
  if (at < line.length) found.push({ text: line.slice(at), style });
  return { spans: found, style };
}

export function plainText(line: string): string {
  return line.replace(ESCAPE, '');
}

function painted(from: Style, codes: string): Style {
  const style = { ...from };
  const list = codes.split(/[;:]/).map((code) => Number(code || 0));
  for (let i = 0; i < list.length; i++) {
    const code = list[i]!;
    if (code === 38 || code === 48) {
      const { color, used } = extended(list.slice(i + 1));
      i += used;
      if (code === 38) style.fg = color;
      else style.bg = color;
    } else Object.assign(style, SIMPLE[code] ?? basic(code));
  }
  return style;
}

const SIMPLE: Record<number, Partial<Style>> = {
  0: PLAIN,
  1: { bold: true },
  2: { dim: true },
  3: { italic: true },
  4: { underline: true },
  22: { bold: false, dim: false },
  23: { italic: false },
  24: { underline: false },
  39: { fg: null },
  49: { bg: null },
};

function basic(code: number): Partial<Style> {
  if (code >= 30 && code <= 37) return { fg: code - 30 };
  if (code >= 90 && code <= 97) return { fg: code - 82 };
  if (code >= 40 && code <= 47) return { bg: code - 40 };
  if (code >= 100 && code <= 107) return { bg: code - 92 };
  return {};
}

function extended(rest: readonly number[]): { color: number | string | null; used: number } {
  const byte = (value: number | undefined): number => Math.min(255, Math.max(0, value ?? 0));
  if (rest[0] === 2) {
    return { color: `rgb(${byte(rest[1])} ${byte(rest[2])} ${byte(rest[3])})`, used: 4 };
  }
  if (rest[0] !== 5) return { color: null, used: 0 };
  const index = byte(rest[1]);
  if (index < 16) return { color: index, used: 2 };
  if (index >= 232) {
    const grey = 8 + (index - 232) * 10;
    return { color: `rgb(${grey} ${grey} ${grey})`, used: 2 };
  }
  const level = (n: number): number => (n ? 55 + n * 40 : 0);
  const cube = index - 16;
  const [r, g, b] = [Math.floor(cube / 36), Math.floor(cube / 6) % 6, cube % 6];
  return { color: `rgb(${level(r)} ${level(g)} ${level(b)})`, used: 2 };
}
