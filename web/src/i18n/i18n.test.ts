import { describe, expect, test } from 'vitest';

import { en } from './en';
import { fill } from './index';
import { ko } from './ko';

const names = (text: string): string[] =>
  [...new Set([...text.matchAll(/\{(\w+)/g)].map((match) => match[1]!))].sort();

describe('catalogues', () => {
  test.each(Object.keys(en) as (keyof typeof en)[])('%s takes the same values in Korean', (key) => {
    const given = names(en[key]);

    expect(names(ko[key]).filter((name) => !given.includes(name))).toEqual([]);
    expect(ko[key].trim()).not.toBe('');
  });

  test('no Korean text was left in English', () => {
    const same = (Object.keys(en) as (keyof typeof en)[]).filter((key) => {
      const words = en[key].replace(/\{[^}]*\}/g, '').match(/[A-Za-z]{3,}/g) ?? [];
      return en[key] === ko[key] && words.some((word) => !['GPU', 'CPU', 'GPUs'].includes(word));
    });

    expect(same).toEqual([]);
  });
});

describe('fill', () => {
  test.each([
    ['{n} {n|job|jobs}', { n: 1 }, '1 job'],
    ['{n} {n|job|jobs}', { n: 0 }, '0 jobs'],
    ['{n} {n|job|jobs}', { n: 1200 }, '1,200 jobs'],
    ['{time} ago', { time: '5 m' }, '5 m ago'],
    ['no values', {}, 'no values'],
  ])('%s of %o is %s', (text, values, words) => {
    expect(fill(text, values as unknown as Record<string, string | number>, 'en')).toBe(words);
  });
});
