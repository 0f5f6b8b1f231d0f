// What is held this moment: a bar for each owner, with marks at what it was promised and may have.

import { useMemo } from 'preact/hooks';

import { gpusOf, overview, waiting } from '../api/store';
import { tenancy } from '../api/tenancy';
import type { ProjectView } from '../api/types';
import { count, percent } from '../format';
import { t } from '../i18n';
import { Command } from '../ui/parts';
import { usePolled } from '../ui/usePolled';
import { devices } from '../words';
import { standing, type Owner } from './standing';

const QUOTAS_MS = 10_000;

export function Now({ all }: { all: readonly ProjectView[] }) {
  const quotas = usePolled(tenancy.quotas, QUOTAS_MS, all);
  const workspaces = usePolled(tenancy.workspaces, QUOTAS_MS, all);
  const total = overview.value?.gpus.total ?? 0;
  const asked = useMemo(() => {
    const found = new Map<string, number>();
    for (const job of waiting.value) {
      found.set(job.project, (found.get(job.project) ?? 0) + gpusOf(job));
    }
    return found;
  }, [waiting.value]);
  const owners = useMemo(
    () => standing(all, workspaces ?? [], quotas ?? [], asked),
    [all, workspaces, quotas, asked],
  );
  const projects = owners.filter((one) => !one.isWorkspace);
  const used = projects.reduce((sum, one) => sum + one.held, 0);
  const holders = projects.filter((one) => one.held > 0).length;
  // A bar is the whole yard, so that its length says how much of it is held.
  const longest = Math.max(1, total, ...owners.map((one) => one.limit ?? 0));
  const nested = owners.some((one) => one.isWorkspace);
  return (
    <>
      <div class="page-head">
        <h1>{t('usage.title')}</h1>
        <p>{t('usage.sentence', { used: count(used), units: devices(total), n: holders })}</p>
      </div>
      <p class="usage-sentence">{borrowers(projects)}</p>
      <ul class={`usage ${nested ? 'nested' : ''}`}>
        {owners.map((owner) => (
          <Line key={`${owner.isWorkspace} ${owner.id}`} owner={owner} longest={longest} />
        ))}
      </ul>
      {!quotas?.length && owners.every((one) => one.limit === null) && (
        <div class="usage-foot">
          <p class="quiet">{t('usage.set')}</p>
          <Command
            text={`madang project set ${projects[0]?.id ?? 'default'} --quota ${Math.max(1, Math.floor(total / 2))}`}
          />
        </div>
      )}
    </>
  );
}

/** Who borrows, who lends, who waits: the three things one asks of this page. */
function borrowers(projects: readonly Owner[]): string {
  const names = (of: readonly Owner[], value: (one: Owner) => number): string =>
    [...of]
      .sort((a, b) => value(b) - value(a))
      .slice(0, 3)
      .map((one) => `${one.id} (${count(value(one))})`)
      .join(', ');
  const borrow = projects.filter((one) => one.borrowed > 0);
  const wait = projects.filter((one) => one.asked > 0);
  const words = [
    borrow.length
      ? t('usage.borrow', { who: names(borrow, (one) => one.borrowed) })
      : t('usage.nobodyBorrows'),
    wait.length
      ? t('usage.wait', { who: names(wait, (one) => one.asked) })
      : t('usage.nobodyWaits'),
  ];
  return words.join(' ');
}

function Line({ owner, longest }: { owner: Owner; longest: number }) {
  const { id, isWorkspace, held, guaranteed, limit, borrowed, asked, lent } = owner;
  const width = (n: number): string => `${(n / longest) * 100}%`;
  const href = `/?group=project&where=${encodeURIComponent(`project:${id}`)}`;
  const name = (
    <>
      <b>{id}</b>
      <span>{heldText(owner)}</span>
    </>
  );
  return (
    <li class={isWorkspace ? 'workspace' : ''}>
      {isWorkspace ? (
        <div class="usage-name">{name}</div>
      ) : (
        <a class="usage-name" href={href}>
          {name}
        </a>
      )}
      <div class="usage-bar">
        <i class="usage-used" style={{ width: width(held - borrowed) }} />
        {borrowed > 0 && (
          <i class="usage-over" style={{ width: width(borrowed), left: width(held - borrowed) }} />
        )}
        {asked > 0 && (
          <i
            class="usage-asked"
            style={{
              left: width(held),
              width: `min(${width(asked)}, ${100 - (held / longest) * 100}%)`,
            }}
          />
        )}
        {guaranteed > 0 && (
          <i
            class="usage-promised"
            style={{ left: width(guaranteed) }}
            title={t('usage.promised', { n: guaranteed })}
          />
        )}
        {limit !== null && limit > 0 && (
          <i
            class="usage-quota"
            style={{ left: width(limit) }}
            title={t('fleet.quota', { n: limit })}
          />
        )}
      </div>
      <span class="usage-note">
        {borrowed > 0 ? (
          <em class="warn">{t('usage.borrows', { n: count(borrowed) })}</em>
        ) : lent > 0 ? (
          <span>{t('usage.lends', { n: count(lent) })}</span>
        ) : limit ? (
          <span>{percent(held / limit)}</span>
        ) : null}
        {asked > 0 && <small>{t('usage.waiting', { units: devices(asked) })}</small>}
      </span>
    </li>
  );
}

function heldText({ held, guaranteed, limit }: Owner): string {
  if (limit !== null) return t('fleet.ofQuota', { held: count(held), quota: count(limit) });
  if (guaranteed > 0) return t('usage.ofPromised', { held: count(held), n: count(guaranteed) });
  return `${count(held)}, ${t('usage.noQuota')}`;
}
