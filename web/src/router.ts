// The URL is the state of the view: path for the page, query for what it shows.

import { computed, signal } from '@preact/signals';

const place = signal(new URL(window.location.href));

export const path = computed(() => place.value.pathname);
export const query = computed(() => place.value.searchParams);

window.addEventListener('popstate', () => (place.value = new URL(window.location.href)));

export function go(to: string): void {
  const next = new URL(to, window.location.href);
  if (next.href === place.value.href) return;
  window.history.pushState(null, '', next);
  place.value = next;
}

/** Change what the page shows; null or '' leaves the default out of the URL. */
export function setQuery(changes: Record<string, string | null>): void {
  const next = new URL(place.value);
  for (const [key, value] of Object.entries(changes)) {
    if (value === null || value === '') next.searchParams.delete(key);
    else next.searchParams.set(key, value);
  }
  window.history.replaceState(null, '', next);
  place.value = next;
}

/** Links inside the page go through the router; modified clicks stay the browser's. */
export function followLinks(): void {
  document.addEventListener('click', (event) => {
    if (event.defaultPrevented || event.button !== 0) return;
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = (event.target as Element).closest('a');
    if (!link || link.origin !== window.location.origin || link.target) return;
    if (link.hasAttribute('download') || link.pathname.startsWith('/v1')) return;
    if (link.pathname === '/docs' || link.hash) return;
    event.preventDefault();
    go(link.href);
  });
}

export type Route =
  | { page: 'fleet' }
  | { page: 'queue' }
  | { page: 'jobs' }
  | { page: 'usage' }
  | { page: 'job'; id: string; tab: string }
  | { page: 'none' };

export function routeOf(pathname: string): Route {
  const [, first = '', second = '', third = ''] = pathname.replace(/\/+$/, '').split('/');
  if (first === 'jobs' && second) {
    return { page: 'job', id: decodeURIComponent(second), tab: third || 'overview' };
  }
  if (second) return { page: 'none' };
  if (first === '') return { page: 'fleet' };
  if (first === 'queue' || first === 'jobs' || first === 'usage') return { page: first };
  return { page: 'none' };
}

export const route = computed(() => routeOf(path.value));
