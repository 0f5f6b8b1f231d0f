import { expect, test } from 'vitest';

import { byName, duration, figure, mib, quoted } from './format';
import { language } from './i18n';

test.each([
  [0, '0 ms'],
  [-5, '0 ms'],
  [999, '999 ms'],
  [52_000, '52 s'],
  [271_000, '4 m 31 s'],
  [600_000, '10 m'],
  [33_120_000, '9 h 12 m'],
  [3_600_000, '1 h'],
  [97_200_000, '1 d 3 h'],
])('%i ms reads %s', (ms, words) => {
  expect(duration(ms)).toBe(words);
});

test('durations are told in Korean', () => {
  language.value = 'ko';
  const told = [52_000, 271_000, 33_120_000, 97_200_000].map(duration);
  language.value = 'en';

  expect(told).toEqual(['52초', '4분 31초', '9시간 12분', '1일 3시간']);
});

test.each([
  [0, '0'],
  [1.69812, '1.698'],
  [0.0003, '3e-4'],
  [0.00027918, '2.792e-4'],
  [412_345, '412,345'],
  [3.2e9, '3.2e9'],
  [NaN, 'NaN'],
])('%d as a figure is %s', (value, text) => {
  expect(figure(value)).toBe(text);
});

test('names with numbers come in the order people expect', () => {
  expect(['node-10', 'node-2', 'node-1'].sort(byName)).toEqual(['node-1', 'node-2', 'node-10']);
});

test.each([
  ['train.py', 'train.py'],
  ['a b', `'a b'`],
  ["it's", `'it'\\''s'`],
  ['', `''`],
  ['$(rm)', `'$(rm)'`],
])('%s is quoted as %s', (word, text) => {
  expect(quoted(word)).toBe(text);
});

test.each([
  [512, '512 MiB'],
  [2048, '2.0 GiB'],
  [81_920, '80 GiB'],
  [1_237_000, '1.2 TiB'],
])('%i MiB reads %s', (value, text) => {
  expect(mib(value)).toBe(text);
});
