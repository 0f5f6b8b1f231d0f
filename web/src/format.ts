// Numbers, times and sizes as people read them. Pure but for the language.

import { language, t } from './i18n';

const S = 1000;
const M = 60 * S;
const H = 60 * M;
const D = 24 * H;

/** Two units at most, so that it stays short: `52 s`, `4 m 31 s`, `9 h 12 m`, `1 d 3 h`. */
export function duration(ms: number): string {
  const part = (value: number, unit: string): string => `${Math.floor(value)} ${unit}`;
  if (ms < S) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < M) return part(ms / S, 's');
  if (ms < 10 * M) return two(ms, M, 'm', S, 's');
  if (ms < H) return part(ms / M, 'm');
  if (ms < D) return two(ms, H, 'h', M, 'm');
  return two(ms, D, 'd', H, 'h');
}

function two(ms: number, big: number, bigUnit: string, small: number, smallUnit: string): string {
  const rest = Math.floor((ms % big) / small);
  const head = `${Math.floor(ms / big)} ${bigUnit}`;
  return rest ? `${head} ${rest} ${smallUnit}` : head;
}

export function ago(ms: number): string {
  return ms < 5 * S ? t('ago.now') : t('ago.time', { time: duration(ms) });
}

/** The time of day; with the date when that is not today's. */
export function clock(atMs: number, nowMs: number): string {
  const at = new Date(atMs);
  const sameDay = at.toDateString() === new Date(nowMs).toDateString();
  const time: Intl.DateTimeFormatOptions = {
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
    hourCycle: 'h23',
  };
  const day: Intl.DateTimeFormatOptions = sameDay ? {} : { month: 'short', day: 'numeric' };
  return new Intl.DateTimeFormat(language.value, { ...day, ...time }).format(at);
}

/** A time to come, to the minute; with the date when that is not today's. */
export function moment(atMs: number, nowMs: number): string {
  const at = new Date(atMs);
  const sameDay = at.toDateString() === new Date(nowMs).toDateString();
  const time: Intl.DateTimeFormatOptions = {
    hour: '2-digit',
    minute: '2-digit',
    hourCycle: 'h23',
  };
  const day: Intl.DateTimeFormatOptions = sameDay ? {} : { month: 'short', day: 'numeric' };
  return new Intl.DateTimeFormat(language.value, { ...day, ...time }).format(at);
}

const DAY_MS = 24 * 60 * 60 * 1000;

/** A mark on an axis: `14:20`; with the day where the axis is longer than one. */
export function hour(atMs: number, lengthMs: number): string {
  const time: Intl.DateTimeFormatOptions = {
    hour: '2-digit',
    minute: '2-digit',
    hourCycle: 'h23',
  };
  const at = new Date(atMs);
  const midnight = at.getHours() === 0 && at.getMinutes() === 0;
  const day: Intl.DateTimeFormatOptions = { month: 'short', day: 'numeric' };
  const shown = lengthMs > 3 * DAY_MS || midnight ? day : time;
  return new Intl.DateTimeFormat(language.value, shown).format(at);
}

export function count(value: number): string {
  return value.toLocaleString(language.value, { maximumFractionDigits: 2 });
}

export function percent(share: number, digits = 0): string {
  return `${(share * 100).toFixed(digits)}%`;
}

/** Four significant digits, for numbers of any size: a loss, a rate, a count of tokens. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7))
    return value.toExponential(3).replace(/\.?0*e\+?/, 'e');
  if (Number.isInteger(value)) return value.toLocaleString(language.value);
  return value.toLocaleString(language.value, { maximumSignificantDigits: 4 });
}

export function mib(value: number): string {
  return value >= 1024 ? `${(value / 1024).toFixed(value >= 10_240 ? 0 : 1)} GiB` : `${value} MiB`;
}

/** Names with numbers in them in the order people expect: `node-2` before `node-10`. */
const collator = new Intl.Collator('en', { numeric: true });
export const byName = (a: string, b: string): number =>
  collator.compare(a, b) || (a < b ? -1 : a > b ? 1 : 0);

/** A word as a shell takes it. */
export function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
