// Contrast, computed from the tokens: what is read is at least 4.5 : 1 on everything it stands on,
// and what is only seen (marks, outlines, ends of bars) at least 3 : 1 on the page.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';

const css = readFileSync(join(process.cwd(), 'src/styles/tokens.css'), 'utf8');

function tokens(theme: 'dark' | 'light'): Map<string, string> {
  const block = new RegExp(`data-theme='${theme}'\\]\\s*{([^}]*)}`).exec(css)?.[1] ?? '';
  return new Map([...block.matchAll(/--([\w-]+):\s*(#[0-9a-f]{6});/g)].map(([, k, v]) => [k!, v!]));
}

function luminance(hex: string): number {
  const part = (at: number): number => {
    const share = parseInt(hex.slice(at, at + 2), 16) / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  };
  return 0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5);
}

/** WCAG 2.2. */
export function contrast(a: string, b: string): number {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high! + 0.05) / (low! + 0.05);
}

const GROUNDS = ['bg', 'surface', 'raised', 'hover'];
const READ = ['text', 'text2', 'text3'];
const TONES = ['accent', 'warn', 'bad', 'good'];
const SEEN = [
  'free',
  'reserved',
  'idle',
  'draining',
  'faulty',
  'repairing',
  'rule',
  'ok',
  'accent',
];

describe.each(['dark', 'light'] as const)('%s', (theme) => {
  const found = tokens(theme);
  const of = (name: string): string => found.get(name) ?? `--${name} is missing`;

  test.each(READ.flatMap((text) => GROUNDS.map((ground) => [text, ground])))(
    '%s can be read on %s',
    (text, ground) => {
      expect(contrast(of(text), of(ground))).toBeGreaterThanOrEqual(4.5);
    },
  );

  test.each(TONES.flatMap((text) => ['bg', 'surface', 'raised'].map((ground) => [text, ground])))(
    '%s can be read on %s',
    (text, ground) => {
      expect(contrast(of(text), of(ground))).toBeGreaterThanOrEqual(4.5);
    },
  );

  test.each([
    ['on-accent', 'accent'],
    ['text', 'accent-bg'],
    ['text2', 'accent-bg'],
  ])('%s can be read on %s', (text, ground) => {
    expect(contrast(of(text), of(ground))).toBeGreaterThanOrEqual(4.5);
  });

  test.each(SEEN)('%s is seen on the page', (mark) => {
    expect(contrast(of(mark), of('bg'))).toBeGreaterThanOrEqual(mark === 'free' ? 2.5 : 3);
  });
});

test.each([
  ['#000000', '#ffffff', 21],
  ['#777777', '#ffffff', 4.48],
])('%s on %s is %f', (a, b, ratio) => {
  expect(contrast(a, b)).toBeCloseTo(ratio, 2);
});
