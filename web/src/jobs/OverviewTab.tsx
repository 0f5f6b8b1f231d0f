// How a job stands: the sentence that says so, its members, and what it is.

import type { ComponentChildren } from 'preact';
import { useEffect, useMemo, useState } from 'preact/hooks';

import { api } from '../api/client';
import { isLive, nowMs, top, touched } from '../api/store';
import type { JobView, SeatView, Why } from '../api/types';
import { Swatch } from '../fleet/Legend';
import { readings, units } from '../fleet/state';
import { rowOf } from '../fleet/units';
import { ago, clock, duration, figure, mib, percent, quoted } from '../format';
import { t } from '../i18n';
import { VirtualTable, type Column } from '../ui/VirtualTable';
import { seatText, startText } from '../words';
import { Glance } from './GpuMetrics';
import { LogPreview, MetricsPreview } from './Preview';

const WHY_MS = 5_000;

export function OverviewTab({ job }: { job: JobView }) {
  return (
    <>
      {job.phase !== 'running' && <WhyLine job={job} />}
      <Breaks job={job} now={nowMs.value} />
      <div class="overview">
        <div class="overview-main">
          {job.running_ms > 0 && job.gpus > 0 && <Glance job={job} />}
          {job.running_ms > 0 && <MetricsPreview job={job} />}
          <section class="members">
            <h2>{t('job.members')}</h2>
            {job.seats.length ? <Members job={job} /> : <p class="quiet">{t('job.noMembers')}</p>}
          </section>
          {job.running_ms > 0 && <LogPreview job={job} />}
        </div>
        <section class="details">
          <h2>{t('job.details')}</h2>
          <Details job={job} />
        </section>
      </div>
    </>
  );
}

function WhyLine({ job }: { job: JobView }) {
  const [why, setWhy] = useState<Why | null>(null);
  const times = touched.value.get(job.id) ?? 0;
  useEffect(() => {
    let here = true;
    const ask = (): void => {
      api.why(job.id).then(
        (answer) => here && setWhy(answer),
        () => undefined,
      );
    };
    ask();
    const timer = job.phase === 'waiting' ? setInterval(ask, WHY_MS) : 0;
    return () => {
      here = false;
      clearInterval(timer);
    };
  }, [job.id, job.phase, times]);
  if (!why?.text) return null;
  const ended = !isLive(job);
  return (
    <div class={`why ${job.phase === 'failed' ? 'failed' : ''}`}>
      <h2>{ended ? t('job.ended') : t('job.why')}</h2>
      <p lang="en">{why.text}</p>
      {job.phase === 'waiting' && (
        <p class="quiet">
          {t('queue.earliest')}: {startText(why.earliest_ms, nowMs.value)}
          {why.basis && <span lang="en">, {why.basis}</span>}
        </p>
      )}
    </div>
  );
}

/** The rules that it breaks, with what was measured. */
function Breaks({ job, now }: { job: JobView; now: number }) {
  const broken = job.broken ?? [];
  if (!broken.length) return null;
  return (
    <div class="why">
      <h2>{t('job.breaks', { n: broken.length })}</h2>
      {broken.map((one) => (
        <p key={one.rule} class="warn">
          <Swatch state="rule" /> <b>{one.rule}</b> <span lang="en">{one.text}</span>{' '}
          <span class="quiet">{ago(now - one.since_ms)}</span>
        </p>
      ))}
    </div>
  );
}

function Members({ job }: { job: JobView }) {
  const live = isLive(job);
  const used = useMemo(() => {
    const mine = (top.value?.members ?? []).filter((one) => one.job === job.id);
    return new Map(mine.map((one) => [one.rank, one]));
  }, [top.value, job.id]);
  const { places } = units.value;
  const busy = readings.value.util;
  const util = (seat: SeatView): string => {
    const known = seat.gpus
      .map((gpu) => busy[rowOf(places, seat.node, gpu)] ?? NaN)
      .filter((value) => !Number.isNaN(value));
    return known.length ? percent(known.reduce((a, b) => a + b, 0) / known.length) : '–';
  };
  const base: Column<SeatView>[] = [
    { key: 'rank', title: t('col.rank'), width: '64px', cell: (seat) => seat.rank },
    { key: 'node', title: t('col.node'), cell: (seat) => <code>{seat.node}</code> },
    {
      key: 'gpus',
      title: units.value.isSlots ? t('job.slots') : t('col.gpus'),
      cell: (seat) => <code>{ranges(seat.gpus)}</code>,
    },
    { key: 'state', title: t('col.state'), cell: (seat) => <SeatState seat={seat} /> },
  ];
  const now: Column<SeatView>[] = [
    { key: 'util', title: t('col.util'), width: '64px', number: true, cell: util },
    {
      key: 'cpu',
      title: t('col.cpu'),
      width: '76px',
      number: true,
      cell: (seat) => {
        const percentUsed = used.get(seat.rank)?.cpu_percent ?? null;
        return percentUsed === null ? '–' : `${figure(Math.round(percentUsed))}%`;
      },
    },
    {
      key: 'memory',
      title: t('col.memory'),
      width: '84px',
      number: true,
      cell: (seat) => {
        const memory = used.get(seat.rank)?.memory_mib ?? null;
        return memory === null ? '–' : mib(memory);
      },
    },
    {
      key: 'logs',
      title: '',
      width: '64px',
      number: true,
      cell: (seat) => (
        <a class="quiet-link" href={`/jobs/${encodeURIComponent(job.id)}/logs?member=${seat.rank}`}>
          {t('job.logs')}
        </a>
      ),
    },
  ];
  return (
    <VirtualTable
      label={t('job.members')}
      rows={job.seats}
      columns={live ? [...base, ...now] : [...base, now.at(-1)!]}
      rowHeight={34}
      keyOf={(seat) => String(seat.rank)}
    />
  );
}

function SeatState({ seat }: { seat: SeatView }) {
  const bad = seat.exit && (seat.exit.lost || seat.exit.signal || seat.exit.code);
  return <span class={bad ? 'bad' : seat.exit ? 'ok' : ''}>{seatText(seat)}</span>;
}

/** 0-3, 6 */
export function ranges(gpus: readonly number[]): string {
  const sorted = [...gpus].sort((a, b) => a - b);
  const parts: string[] = [];
  for (let i = 0; i < sorted.length;) {
    let j = i;
    while (sorted[j + 1] === sorted[j]! + 1) j++;
    parts.push(j > i ? `${sorted[i]!}-${sorted[j]!}` : String(sorted[i]));
    i = j + 1;
  }
  return parts.join(', ');
}

function Details({ job }: { job: JobView }) {
  const now = nowMs.value;
  const lines: [string, ComponentChildren][] = [
    [t('job.command'), <code class="wrap">{job.command.map(quoted).join(' ')}</code>],
    [t('job.submitted'), clock(job.submitted_ms, now)],
    [t('job.provisioning'), job.provisioning],
    [t('job.category'), `${job.category}, ${job.purpose}`],
    [t('job.priority'), job.priority],
    [t('job.profile'), job.profile || t('job.any')],
  ];
  if (job.time_ms) lines.push([t('col.time'), duration(job.time_ms)]);
  if (job.image) lines.push([t('job.image'), <code class="wrap">{job.image}</code>]);
  if (job.code) lines.push([t('job.code'), <code>{job.code.slice(0, 12)}</code>]);
  if (job.memo) lines.push([t('job.memo'), job.memo]);
  if (job.forked_from) {
    const href = `/jobs/${encodeURIComponent(job.forked_from)}`;
    lines.push([
      t('job.forkedFrom'),
      <a class="mono" href={href}>
        {job.forked_from}
      </a>,
    ]);
  }
  return (
    <dl class="facts">
      {lines.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
