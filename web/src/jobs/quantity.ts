// A reading with its unit, and a metric with its name.

import { count, figure } from '../format';
import { t, type Key } from '../i18n';
import { en } from '../i18n/en';

const GIB = 1024 ** 3;

/** `88%`, `64 °C`, `612 W`, `1.4 GiB`. The unit is the API's word for it. */
export function quantity(value: number, unit: string): string {
  if (Number.isNaN(value)) return '–';
  const whole = Math.abs(value) >= 10 ? Math.round(value) : value;
  switch (unit) {
    case 'percent':
    case '%':
      return `${figure(whole)}%`;
    case 'celsius':
    case '°C':
      return `${figure(whole)} °C`;
    case 'watt':
    case 'W':
      return `${figure(whole)} W`;
    case 'MHz':
      return `${count(Math.round(value))} MHz`;
    case 'MiB':
      return value >= 1024 ? `${figure(value / 1024)} GiB` : `${figure(whole)} MiB`;
    case 'byte':
    case 'bytes':
    case 'B':
      return value >= GIB ? `${figure(value / GIB)} GiB` : `${figure(value / 1024 ** 2)} MiB`;
    default:
      return unit && unit !== '1' ? `${figure(whole)} ${unit}` : figure(whole);
  }
}

/** The metric's name in the reader's language where the catalogue has one. */
export function metricText(name: string): { text: string; ours: boolean } {
  const key = `metric.${name}`;
  if (key in en)
    return {
      text: t(key as Extract<Key, `metric.${string}`> as 'metric.gpu_util_percent'),
      ours: true,
    };
  return { text: name, ours: false };
}
