import fc from 'fast-check';
import { describe, expect, test } from 'vitest';

import { plainText, PLAIN, spans } from './ansi';
import {
  columns,
  firstLineAt,
  lineAt,
  LINES_MAX,
  LogBuffer,
  rowsBefore,
  search,
  settled,
} from './buffer';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

describe('log buffer', () => {
  test('however the bytes are cut, the lines are the same', () => {
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom('a', '한글', '\n', '\r', 'step 1', '🙂', '\x1b[31m'), {
          maxLength: 60,
        }),
        fc.array(fc.nat({ max: 200 }), { maxLength: 8 }),
        (words, cuts) => {
          const whole = bytes(words.join(''));
          const once = new LogBuffer();
          once.append(whole);
          const parts = new LogBuffer();
          let at = 0;
          for (const cut of cuts.map((n) => n % (whole.length + 1)).sort((a, b) => a - b)) {
            parts.append(whole.subarray(at, Math.max(at, cut)));
            at = Math.max(at, cut);
          }
          parts.append(whole.subarray(at));

          expect(parts.shown()).toEqual(once.shown());
        },
      ),
    );
  });

  test('an unfinished line is shown and grows', () => {
    const log = new LogBuffer();
    log.append(bytes('one\ntw'));
    expect(log.shown()).toEqual(['one', 'tw']);

    log.append(bytes('o\n'));
    expect(log.shown()).toEqual(['one', 'two']);
  });

  test('the oldest lines go when there are too many, and are counted', () => {
    const log = new LogBuffer();
    log.append(bytes('x\n'.repeat(LINES_MAX + 7)));

    expect(log.lines).toHaveLength(LINES_MAX);
    expect(log.forgotten).toBe(7);
  });

  test('earlier bytes come in front', () => {
    const log = new LogBuffer();
    log.append(bytes('c\nd\n'));

    expect(log.prepend(bytes('a\nb\n'))).toBe(2);
    expect(log.shown()).toEqual(['a', 'b', 'c', 'd']);
  });

  test('a part read from the middle begins with its first whole line', () => {
    const part = bytes('alf of a line\nnext\n');

    expect(new TextDecoder().decode(part.subarray(firstLineAt(part)))).toBe('next\n');
    expect(firstLineAt(bytes('no end'))).toBe(6);
  });

  test.each([
    ['10%\r50%\r100%', '100%'],
    ['windows line\r', 'windows line'],
    ['plain', 'plain'],
    ['', ''],
  ])('%j is settled as %j', (line, text) => {
    expect(settled(line)).toBe(text);
  });
});

describe('wrapping', () => {
  test.each([
    ['abc', 3],
    ['한글', 4],
    ['🙂', 2],
    ['é', 1],
  ])('%s takes %i columns', (text, n) => {
    expect(columns(text)).toBe(n);
  });

  test('every row belongs to the line that covers it', () => {
    fc.assert(
      fc.property(
        fc.array(fc.string({ maxLength: 90 }), { minLength: 1 }),
        fc.integer({ min: 1, max: 80 }),
        (lines, width) => {
          const before = rowsBefore(lines, width);
          for (let row = 0; row < before.at(-1)!; row++) {
            const line = lineAt(before, row);
            expect(before[line]).toBeLessThanOrEqual(row);
            expect(before[line + 1]).toBeGreaterThan(row);
          }
        },
      ),
    );
  });
});

describe('ansi', () => {
  test('text without its escapes is what the spans hold', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.constantFrom(
            'a',
            '\x1b[31m',
            '\x1b[0m',
            '\x1b[38;5;208m',
            '\x1b]8;;x\x07',
            '\x1b[2K',
            '\x07',
            '한',
          ),
        ),
        (words) => {
          const line = words.join('');
          expect(
            spans(line, PLAIN)
              .spans.map((span) => span.text)
              .join(''),
          ).toBe(plainText(line));
        },
      ),
    );
  });

  test.each([
    ['\x1b[31mred', { fg: 1 }],
    ['\x1b[1;92mx', { fg: 10, bold: true }],
    ['\x1b[38;5;196mx', { fg: 'rgb(255 0 0)' }],
    ['\x1b[38;5;244mx', { fg: 'rgb(128 128 128)' }],
    ['\x1b[38;2;1;2;999mx', { fg: 'rgb(1 2 255)' }],
    ['\x1b[48;5;4mx', { bg: 4 }],
    ['\x1b[31m\x1b[mx', {}],
    ['\x1b[4;24;3mx', { italic: true }],
  ])('%j is painted', (line, style) => {
    expect(spans(line, PLAIN).spans.at(-1)!.style).toEqual({ ...PLAIN, ...style });
  });

  test('a colour goes on into the next line until it is reset', () => {
    const { style } = spans('\x1b[33mwarning', PLAIN);

    expect(spans('still', style).spans[0]!.style.fg).toBe(3);
  });
});

test('search minds case only when the text has some', () => {
  const lines = ['Loss 1', 'loss 2', 'step'];

  expect(search(lines, 'loss')).toEqual([0, 1]);
  expect(search(lines, 'Loss')).toEqual([0]);
  expect(search(lines, '')).toEqual([]);
});
