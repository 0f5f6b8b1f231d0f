// What comes: expected starts, GPUs that time limits give back, reservations and kept rooms.

import { useMemo } from 'preact/hooks';

import { holding, nowMs } from '../api/store';
import type { HoleView, ReservationView } from '../api/tenancy';
import type { JobView } from '../api/types';
import { moment, count } from '../format';
import { t } from '../i18n';
import { TimeAxis } from '../jobs/TimeAxis';
import { query, setQuery } from '../router';
import { Segmented } from '../ui/parts';
import { devices, sizeOf } from '../words';
import {
  bars,
  ends,
  expected,
  HORIZONS,
  lanes,
  toMsOf,
  type Bar,
  type Horizon,
  type Start,
} from './calendar';

const SLOTS = 96;
const LANES_MAX = 6;
const STEP_MS = 60_000; // the calendar moves once a minute, not each second

interface Props {
  queue: readonly JobView[];
  reservations: readonly ReservationView[];
  holes: readonly HoleView[];
}

export function Calendar({ queue, reservations, holes }: Props) {
  const asked = query.value.get('span');
  const horizon = (Object.keys(HORIZONS) as Horizon[]).find((one) => one === asked) ?? '24h';
  const fromMs = Math.floor(nowMs.value / STEP_MS) * STEP_MS;
  const toMs = toMsOf(horizon, fromMs);
  const starts = useMemo(() => expected(queue, fromMs, horizon), [queue, fromMs, horizon]);
  const kept = useMemo(
    () => bars(reservations, holes, fromMs, horizon),
    [reservations, holes, fromMs, horizon],
  );
  const freed = useMemo(
    () => ends(holding.value, fromMs, horizon, SLOTS),
    [holding.value, fromMs, horizon],
  );
  const found = lanes(kept);
  const share = (atMs: number): number => ((atMs - fromMs) / (toMs - fromMs)) * 100;
  return (
    <section class="calendar" aria-label={t('calendar.title')}>
      <div class="section-head">
        <h2>{t('calendar.title')}</h2>
        <Segmented
          label={t('calendar.span')}
          bare
          value={horizon}
          options={(Object.keys(HORIZONS) as Horizon[]).map((value) => ({
            value,
            text: t(`calendar.${value}`),
          }))}
          choose={(next) => setQuery({ span: next === '24h' ? null : next })}
        />
      </div>
      <Lane name={t('calendar.starts')} note={t('calendar.known', { n: starts.length })}>
        <Starts starts={starts} share={share} nowMs={fromMs} />
      </Lane>
      <Lane name={t('calendar.freed')} note={devices(freed.reduce((a, b) => a + b, 0))}>
        <Freed freed={freed} fromMs={fromMs} toMs={toMs} />
      </Lane>
      {found.slice(0, LANES_MAX).map((lane, at) => (
        <Lane
          key={lane[0]!.key}
          name={at ? '' : t('calendar.kept')}
          note={at ? '' : devices(kept.reduce((sum, bar) => sum + bar.gpus, 0))}
        >
          {lane.map((bar) => (
            <Kept key={bar.key} bar={bar} share={share} nowMs={fromMs} />
          ))}
        </Lane>
      ))}
      {!kept.length && (
        <Lane name={t('calendar.kept')} note="">
          <span class="calendar-none">{t('calendar.nothing')}</span>
        </Lane>
      )}
      {found.length > LANES_MAX && (
        <p class="heat-note">{t('calendar.more', { n: found.slice(LANES_MAX).flat().length })}</p>
      )}
      <TimeAxis fromMs={fromMs} toMs={toMs} gutter={190} most={10} />
    </section>
  );
}

function Lane(props: { name: string; note: string; children: preact.ComponentChildren }) {
  return (
    <div class="lane">
      <div class="lane-name">
        {props.name && <span>{props.name}</span>}
        {props.note && <small>{props.note}</small>}
      </div>
      <div class="lane-body">{props.children}</div>
    </div>
  );
}

interface StartsProps {
  starts: readonly Start[];
  share: (atMs: number) => number;
  nowMs: number;
}

/** Marks of starts; those that would lie on each other share one, with their number. */
function Starts({ starts, share, nowMs }: StartsProps) {
  const groups = new Map<number, Start[]>();
  for (const start of starts) {
    const at = Math.round(share(start.atMs) / 2.2);
    groups.set(at, [...(groups.get(at) ?? []), start]);
  }
  return (
    <>
      {[...groups.entries()].map(([at, group]) => {
        const { job, atMs } = group[0]!;
        const names = group.map((one) => `${one.job.id}, ${sizeOf(one.job)}`).join('\n');
        return (
          <a
            key={at}
            class="start-mark"
            style={{ left: `${share(atMs)}%` }}
            href={`/jobs/${encodeURIComponent(job.id)}`}
            title={`${moment(atMs, nowMs)}\n${names}`}
            aria-label={t('calendar.start', { job: job.id, time: moment(atMs, nowMs) })}
          >
            {group.length > 1 ? group.length : ''}
          </a>
        );
      })}
    </>
  );
}

function Freed(props: { freed: readonly number[]; fromMs: number; toMs: number }) {
  const { freed, fromMs, toMs } = props;
  const most = Math.max(1, ...freed);
  const slot = (toMs - fromMs) / freed.length;
  return (
    <div
      class="freed"
      role="img"
      aria-label={t('calendar.freedLabel', { n: freed.reduce((a, b) => a + b, 0) })}
    >
      {freed.map((gpus, at) => (
        <i
          key={at}
          // The root keeps a job of 8 in sight beside one of 1,024.
          style={{ height: `${Math.sqrt(gpus / most) * 100}%` }}
          title={gpus ? `${moment(fromMs + at * slot, fromMs)}: ${devices(gpus)}` : undefined}
        />
      ))}
    </div>
  );
}

function Kept(props: { bar: Bar; share: (atMs: number) => number; nowMs: number }) {
  const { bar, share, nowMs } = props;
  const left = share(bar.fromMs);
  const words = [bar.project, devices(bar.gpus)].filter(Boolean).join(', ');
  const held = bar.held > 0 ? t('calendar.held', { n: count(bar.held) }) : '';
  const until = t('calendar.window', {
    kind: t(`calendar.is_${bar.kind}`),
    from: moment(bar.fromMs, nowMs),
    to: moment(bar.toMs, nowMs),
  });
  return (
    <div
      class={`kept kept-${bar.kind} ${bar.cutLeft ? 'cut-left' : ''} ${bar.cutRight ? 'cut-right' : ''}`}
      style={{ left: `${left}%`, width: `${share(bar.toMs) - left}%` }}
      title={[bar.title, words, until, held].filter(Boolean).join('\n')}
    >
      <b>{bar.title}</b>
      <span>
        {words}
        {held && `, ${held}`}
      </span>
    </div>
  );
}
