// A field of the schema in words: ours where the catalogue has it, else the daemon's own.

import type { Field } from '../api/liveMoment';
import { t, type Key } from '../i18n';
import { en } from '../i18n/en';

export function fieldText(field: Field): string {
  const key = `color.${field.name}`;
  return key in en ? t(key as Key as 'color.util') : field.text;
}
