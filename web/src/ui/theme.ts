// Light or dark: the system's, unless one was chosen here.

import { effect, signal } from '@preact/signals';

import { store, stored } from './stored';

export type Theme = 'system' | 'dark' | 'light';

const THEMES: readonly Theme[] = ['system', 'dark', 'light'];
const systemLight = window.matchMedia('(prefers-color-scheme: light)');

export const theme = signal<Theme>(stored('theme', THEMES) ?? 'system');
/** What is shown now; canvases repaint when it changes. */
export const shown = signal<'dark' | 'light'>('dark');

export function nextTheme(): void {
  theme.value = THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length]!;
  store('theme', theme.value);
}

function show(): void {
  const wanted = theme.value;
  const light = wanted === 'system' ? systemLight.matches : wanted === 'light';
  document.documentElement.dataset['theme'] = light ? 'light' : 'dark';
  shown.value = light ? 'light' : 'dark';
}

export function followTheme(): void {
  effect(show);
  systemLight.addEventListener('change', show);
}
