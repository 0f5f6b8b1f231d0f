// The side panel: what an operator should look at, worst first, and who runs next.

import { useSignal } from '@preact/signals';
import { useMemo } from 'preact/hooks';

import { endedLately, nowMs, waiting, gpusOf } from '../api/store';
import type { JobView } from '../api/types';
import { ago, count, duration } from '../format';
import { t } from '../i18n';
import { query, setQuery } from '../router';
import { Sparkline } from '../ui/parts';
import { devices, startText } from '../words';
import { breachList } from './breaches';
import { Swatch } from './Legend';
import { historyOf, idleJobs, rowsOfJob, units } from './state';
import { CODE, keyAt, nodeAt, type State } from './units';

const FAILED_MS_MAX = 3_600_000;
const EACH_MAX = 4;
const QUEUE_MAX = 8;

interface Item {
  key: string;
  state: State | 'rule';
  title: string;
  text: string;
  /** What a click selects on the map. */
  select?: string;
  href?: string;
  job?: string;
  time?: string;
}

function brokenDevices(): Item[] {
  const all = units.value;
  const lost: Item[] = [];
  const cordoned: Item[] = [];
  for (const node of all.nodes) {
    if (node.state === 'ready') continue;
    const base = { key: node.id, title: node.id, select: `node:${node.id}` };
    if (node.state === 'lost') {
      lost.push({ ...base, state: 'lost', text: t('att.lost', { n: node.gpus }) });
      continue;
    }
    const n = all.job.subarray(node.first, node.first + node.gpus).filter((job) => job >= 0).length;
    cordoned.push({ ...base, state: 'draining', text: t('att.cordoned', { n }) });
  }
  const faulty: Item[] = [];
  for (let row = 0; row < all.count; row++) {
    if (all.state[row] !== CODE.faulty) continue;
    const node = nodeAt(all, row);
    faulty.push({
      key: keyAt(all, row),
      state: 'faulty',
      title: `${node.id} · gpu${all.slot[row]!}`,
      text: t('att.faulty'),
      select: `node:${node.id}`,
    });
  }
  return [...lost, ...faulty, ...cordoned];
}

function breakers(now: number): Item[] {
  return breachList.value.map(({ job, worst, more }) => ({
    key: `rule ${job.id}`,
    state: 'rule' as const,
    title: job.id,
    text:
      t('att.rule', { rule: worst.rule, units: devices(gpusOf(job)) }) +
      (more ? t('att.ruleMore', { n: more }) : ''),
    time: ago(now - worst.since_ms),
    select: `job:${job.id}`,
    job: job.id,
  }));
}

function troubledJobs(now: number): Item[] {
  const broken = breakers(now);
  const told = new Set(broken.map((item) => item.job));
  const idle: Item[] = [...idleJobs.value]
    .filter(([id]) => !told.has(id)) // its rule says so already
    .sort(([, a], [, b]) => b.units - a.units)
    .map(([id, one]) => ({
      key: id,
      state: 'idle' as const,
      title: id,
      text: t('att.idle', { units: devices(one.units), time: duration(now - one.sinceMs) }),
      select: `job:${id}`,
      job: id,
    }));
  const failed: Item[] = endedLately.value
    .filter((job) => job.phase === 'failed' && now - job.ended_ms < FAILED_MS_MAX)
    .map((job) => ({
      key: job.id,
      state: 'faulty' as const,
      title: job.id,
      text: job.reason || t('phase.failed'),
      time: ago(now - job.ended_ms),
      href: `/jobs/${encodeURIComponent(job.id)}`,
    }));
  return [...broken, ...idle, ...failed];
}

export function Attention() {
  const now = nowMs.value;
  const broken = useMemo(brokenDevices, [units.value]);
  const troubled = troubledJobs(now);
  const open = broken.length + troubled.length;
  return (
    <aside class="side" aria-label={t('side.attention')}>
      <div class="side-head">
        <h2>{t('side.attention')}</h2>
        {open > 0 && <span>{t('side.open', { n: open })}</span>}
      </div>
      {open === 0 && <p class="calm">{t('side.calm')}</p>}
      <Items title={t('side.jobs')} items={troubled} />
      <Items title={t('side.devices')} items={broken} />
      <Next now={now} />
    </aside>
  );
}

function Items({ title, items }: { title: string; items: readonly Item[] }) {
  const all = useSignal(false);
  const shown = all.value ? items : items.slice(0, EACH_MAX);
  if (!items.length) return null;
  return (
    <section>
      <h3>{title}</h3>
      <ul class="items">
        {shown.map((item) => (
          <li key={item.key}>
            <ItemLine item={item} />
          </li>
        ))}
      </ul>
      {items.length > shown.length && (
        <button type="button" class="items-more" onClick={() => (all.value = true)}>
          {t('att.more', { n: items.length - shown.length })}
        </button>
      )}
    </section>
  );
}

function ItemLine({ item }: { item: Item }) {
  const chosen = item.select !== undefined && query.value.get('select') === item.select;
  const inside = (
    <>
      <Swatch state={item.state} />
      <span class="item-words">
        <span class="item-title mono">{item.title}</span>
        <span class="item-text">{item.text}</span>
      </span>
      {item.time && <span class="item-time">{item.time}</span>}
      {item.job && (
        <Sparkline values={historyOf(rowsOfJob(units.value, item.job))} width={72} height={26} />
      )}
    </>
  );
  if (item.href) {
    return (
      <a class="item" href={item.href}>
        {inside}
      </a>
    );
  }
  return (
    <button
      type="button"
      class="item"
      aria-pressed={chosen}
      onClick={() => setQuery({ select: chosen ? null : (item.select ?? null) })}
    >
      {inside}
    </button>
  );
}

function Next({ now }: { now: number }) {
  const queue = waiting.value;
  return (
    <section>
      <h3>
        {t('side.queue')}
        {queue.length > QUEUE_MAX && <a href="/queue">{t('side.all', { n: queue.length })}</a>}
      </h3>
      {!queue.length && <p class="calm">{t('side.queueEmpty')}</p>}
      <ul class="items">
        {queue.slice(0, QUEUE_MAX).map((job) => (
          <li key={job.id}>
            <a class="item" href={`/jobs/${encodeURIComponent(job.id)}`}>
              <Swatch state="free" />
              <span class="item-words">
                <span class="item-title mono">{job.id}</span>
                <span class="item-text">{whyText(job, now)}</span>
              </span>
              <span class="item-time">
                {devices(Number(count(gpusOf(job)).replaceAll(',', '')))}
              </span>
            </a>
          </li>
        ))}
      </ul>
    </section>
  );
}

function whyText(job: JobView, now: number): string {
  const { waits } = job;
  if (!waits) return t('job.waitingFor', { time: duration(now - job.submitted_ms) });
  return waits.earliest_ms > now
    ? `${waits.text}; ${startText(waits.earliest_ms, now)}`
    : waits.text;
}
