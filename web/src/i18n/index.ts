// Texts in two languages. A key that does not exist or a missing value is a type error.

import { signal } from '@preact/signals';

import { stored } from '../ui/stored';
import { en } from './en';
import { ko } from './ko';

export type Key = keyof typeof en;
export type Language = 'en' | 'ko';

type NameOf<P extends string> = P extends `${infer N}|${string}` ? N : P;
type ParamsOf<S extends string> = S extends `${string}{${infer P}}${infer Rest}`
  ? NameOf<P> | ParamsOf<Rest>
  : never;
type Values<K extends Key> = Record<ParamsOf<(typeof en)[K]>, string | number>;
type Args<K extends Key> = [ParamsOf<(typeof en)[K]>] extends [never] ? [] : [Values<K>];

const CATALOGUES: Record<Language, Record<Key, string>> = { en, ko };

const browserLanguage = (): Language => (navigator.language.startsWith('ko') ? 'ko' : 'en');

export const language = signal<Language>(stored('language', ['en', 'ko']) ?? browserLanguage());

/** Numbers in the text are grouped as the language groups them. */
export function fill(
  text: string,
  values: Record<string, string | number>,
  tongue: Language,
): string {
  return text.replace(/\{(\w+)(?:\|([^|}]*)\|([^}]*))?\}/g, (_, name: string, one, many) => {
    const value = values[name] ?? '';
    if (one !== undefined) return String(Number(value) === 1 ? one : many);
    return typeof value === 'number' ? value.toLocaleString(tongue) : value;
  });
}

export function t<K extends Key>(key: K, ...args: Args<K>): string {
  const text = CATALOGUES[language.value][key];
  return args.length ? fill(text, args[0], language.value) : text;
}
