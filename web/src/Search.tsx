// One field that filters what is shown and jumps to a job or a node.

import { useSignal } from '@preact/signals';
import { useRef } from 'preact/hooks';

import { endedLately, jobs, nodes } from './api/store';
import { terms } from './fleet/spec';
import { byName } from './format';
import { t } from './i18n';
import { go, query, route, setQuery } from './router';
import { Icon } from './ui/Icon';
import { PhasePill } from './ui/parts';
import type { JobView } from './api/types';

const SHOWN_MAX = 7;

type Found = { kind: 'job'; job: JobView } | { kind: 'node'; id: string } | { kind: 'filter' };

function find(text: string): Found[] {
  const words = terms(text)
    .filter((term) => term.field === null || term.field === 'job')
    .map((term) => term.text);
  if (!words.length) return [{ kind: 'filter' }];
  const fits = (name: string): boolean => words.every((word) => name.toLowerCase().includes(word));
  const all = [...(jobs.value?.values() ?? []), ...endedLately.value];
  const found: Found[] = all
    .filter((job) => fits(`${job.id} ${job.project} ${job.owner}`))
    .sort((a, b) => Number(fits(b.id)) - Number(fits(a.id)) || b.n - a.n)
    .slice(0, SHOWN_MAX)
    .map((job) => ({ kind: 'job', job }));
  const machines: Found[] = (nodes.value ?? [])
    .filter((node) => fits(node.id))
    .sort((a, b) => byName(a.id, b.id))
    .slice(0, 3)
    .map((node) => ({ kind: 'node', id: node.id }));
  return [{ kind: 'filter' }, ...found, ...machines];
}

export function Search() {
  const open = useSignal(false);
  const draft = useSignal<string | null>(null);
  const at = useSignal(0);
  const input = useRef<HTMLInputElement>(null);
  const where = query.value.get('where') ?? '';
  const text = draft.value ?? where;
  const found = open.value && text.trim() ? find(text) : [];

  const leave = (): void => {
    open.value = false;
    draft.value = null;
    input.current?.blur();
  };
  const filter = (value: string): void => {
    if (route.value.page === 'fleet' || route.value.page === 'jobs') setQuery({ where: value });
    else if (value.trim()) go(`/?where=${encodeURIComponent(value)}`);
  };
  const take = (one: Found | undefined): void => {
    if (one?.kind === 'job') go(`/jobs/${encodeURIComponent(one.job.id)}`);
    else if (one?.kind === 'node') go(`/?where=${encodeURIComponent(`node:${one.id}`)}`);
    else filter(text.trim());
    leave();
  };
  const exact = (): Found | undefined => {
    const jobsFound = found.filter((one) => one.kind === 'job');
    return jobsFound.find((one) => one.job.id === text.trim() || String(one.job.n) === text.trim());
  };
  const key = (event: KeyboardEvent): void => {
    if (event.key === 'ArrowDown') at.value = Math.min(at.value + 1, found.length - 1);
    else if (event.key === 'ArrowUp') at.value = Math.max(0, at.value - 1);
    else if (event.key === 'Enter') take(at.value === 0 ? (exact() ?? found[0]) : found[at.value]);
    else if (event.key === 'Escape') {
      if (where) setQuery({ where: null });
      leave();
    } else return;
    event.preventDefault();
  };
  return (
    <div class="search" role="search">
      <Icon name="search" />
      <input
        id="search"
        ref={input}
        type="text"
        role="combobox"
        aria-expanded={found.length > 0}
        aria-controls="search-list"
        aria-activedescendant={found.length ? `search-${at.value}` : ''}
        aria-label={t('search.placeholder')}
        placeholder={t('search.placeholder')}
        autocomplete="off"
        spellcheck={false}
        value={text}
        onFocus={() => (open.value = true)}
        onBlur={() => setTimeout(() => (open.value = false), 120)}
        onInput={(event) => {
          draft.value = event.currentTarget.value;
          at.value = 0;
          open.value = true;
        }}
        onKeyDown={key}
      />
      {where && !open.value ? (
        <button
          type="button"
          class="search-clear"
          aria-label={t('search.clear')}
          onClick={() => setQuery({ where: null })}
        >
          <Icon name="close" size={14} />
        </button>
      ) : (
        <kbd>/</kbd>
      )}
      {found.length > 0 && (
        <ul id="search-list" class="search-list" role="listbox">
          {found.map((one, i) => (
            <li
              key={i}
              id={`search-${i}`}
              role="option"
              aria-selected={i === at.value}
              onMouseDown={(event) => {
                event.preventDefault();
                take(one);
              }}
            >
              <FoundLine one={one} text={text.trim()} />
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

function FoundLine({ one, text }: { one: Found; text: string }) {
  if (one.kind === 'filter') {
    return (
      <>
        <span>{text}</span>
        <em>{t('search.filter')}</em>
      </>
    );
  }
  if (one.kind === 'node') {
    return (
      <>
        <code>{one.id}</code>
        <em>{t('col.node')}</em>
      </>
    );
  }
  return (
    <>
      <code>{one.job.id}</code>
      <PhasePill phase={one.job.phase} />
      <em>{one.job.project}</em>
    </>
  );
}
