// All jobs, newest first: live ones from the store, ended ones page by page as one scrolls.

import { useCallback, useEffect, useMemo, useRef, useState } from 'preact/hooks';

import { api } from '../api/client';
import { endedLately, isLive, jobs, nowMs } from '../api/store';
import type { JobView } from '../api/types';
import { Swatch } from '../fleet/Legend';
import { terms } from '../fleet/spec';
import { duration, moment } from '../format';
import { t } from '../i18n';
import { query, setQuery } from '../router';
import { Command, Empty, PhasePill, Segmented } from '../ui/parts';
import { VirtualTable, type Column } from '../ui/VirtualTable';
import { phaseText, sizeOf, timeIn } from '../words';

const SHOW = ['all', 'running', 'waiting', 'ended', 'failed'] as const;
type Show = (typeof SHOW)[number];
const PAGE = 200;

function wanted(job: JobView, show: Show): boolean {
  if (show === 'all') return true;
  if (show === 'waiting' || show === 'failed') return job.phase === show;
  return show === 'ended' ? !isLive(job) : isLive(job) && job.phase !== 'waiting';
}

/** Every term must fit: a field of the same name, or anything at all. */
function fits(job: JobView, where: string): boolean {
  return terms(where).every(({ field, text }) => {
    if (field === 'state') return job.phase === text;
    if (field === 'job') return job.id.includes(text);
    if (field === 'project') return job.project.toLowerCase().includes(text);
    if (field === 'owner') return job.owner.toLowerCase().includes(text);
    if (field === 'node') return job.seats.some((seat) => seat.node.toLowerCase().includes(text));
    return `${job.id} ${job.project} ${job.owner} ${job.memo}`.toLowerCase().includes(text);
  });
}

/** Ended jobs as far as they were scrolled to. */
function useEnded(phase: string): { ended: JobView[]; more: boolean; load: () => void } {
  const [ended, setEnded] = useState<JobView[]>([]);
  const [next, setNext] = useState<number | null | undefined>(undefined);
  const busy = useRef(false);
  const load = useCallback(() => {
    if (busy.current || next === null) return;
    busy.current = true;
    const before = next === undefined ? {} : { before: next };
    api
      .jobs({ phase, limit: PAGE, ...before })
      .then((page) => {
        setEnded((known) => [...known, ...page.jobs]);
        setNext(page.next);
      })
      .catch(() => undefined) // the live indicator says that the daemon is away
      .finally(() => (busy.current = false));
  }, [phase, next]);
  useEffect(() => {
    if (next === undefined) load();
  }, [load, next]);
  return { ended, more: next !== null, load };
}

export default function JobsPage() {
  const asked = query.value.get('show');
  const show = SHOW.find((one) => one === asked) ?? 'all';
  return <JobsList key={show} show={show} />;
}

function JobsList({ show }: { show: Show }) {
  const where = query.value.get('where') ?? '';
  const now = nowMs.value;
  const { ended, more, load } = useEnded(show === 'failed' ? 'failed' : 'ended');
  const all = useMemo(() => {
    const found = new Map<string, JobView>();
    for (const job of ended) found.set(job.id, job);
    for (const job of endedLately.value) found.set(job.id, job);
    for (const job of jobs.value?.values() ?? []) found.set(job.id, job);
    return [...found.values()].sort((a, b) => b.n - a.n);
  }, [ended, endedLately.value, jobs.value]);
  const rows = all.filter((job) => wanted(job, show) && fits(job, where));
  const scrolls = show !== 'running' && show !== 'waiting';
  if (!jobs.value) return <main id="content" class="content" aria-busy="true" />;
  if (!all.length && !more) return <None />;
  return (
    <main id="content" class="content">
      <div class="page-head">
        <h1>{t('jobs.title')}</h1>
        <Segmented
          label={t('col.phase')}
          bare
          value={show}
          options={SHOW.map((value) => ({ value, text: t(`jobs.${value}`) }))}
          choose={(value) => setQuery({ show: value === 'all' ? null : value })}
        />
        <p>
          {scrolls && more
            ? t('jobs.countMore', { n: rows.length })
            : t('jobs.count', { n: rows.length })}
        </p>
      </div>
      <VirtualTable
        label={t('jobs.title')}
        rows={rows}
        columns={columns(now)}
        rowHeight={40}
        keyOf={(job) => job.id}
        hrefOf={(job) => `/jobs/${encodeURIComponent(job.id)}`}
        nearEnd={scrolls ? load : undefined!}
        foot={
          !rows.length && (
            <Empty title={t('jobs.none')}>
              <p>{t('jobs.noneText', { n: all.length })}</p>
            </Empty>
          )
        }
      />
    </main>
  );
}

function None() {
  return (
    <main id="content" class="content center">
      <Empty title={t('jobs.empty')}>
        <p>{t('jobs.emptyText')}</p>
        <Command text="madang run -- python train.py" />
      </Empty>
    </main>
  );
}

function columns(now: number): Column<JobView>[] {
  return [
    { key: 'job', title: t('col.job'), width: '17%', cell: (job) => <code>{job.id}</code> },
    {
      key: 'phase',
      title: t('col.phase'),
      width: '15%',
      cell: (job) => <PhasePill phase={job.phase} text={phaseText(job, now)} />,
    },
    { key: 'size', title: t('col.size'), width: '10%', cell: (job) => sizeOf(job) },
    { key: 'now', title: t('jobs.now'), cell: (job) => <Standing job={job} now={now} /> },
    { key: 'project', title: t('col.project'), width: '11%', cell: (job) => job.project },
    { key: 'owner', title: t('col.owner'), width: '8%', cell: (job) => job.owner },
    {
      key: 'time',
      title: t('col.time'),
      width: '96px',
      number: true,
      cell: (job) => duration(timeIn(job, now)),
    },
    {
      key: 'submitted',
      title: t('col.submitted'),
      width: '124px',
      number: true,
      cell: (job) => moment(job.submitted_ms, now),
    },
  ];
}

/** Why it waits and until when, how it ended, or what is wrong with it; nothing when all is well. */
function Standing({ job, now }: { job: JobView; now: number }) {
  if (job.phase === 'waiting') {
    const at = job.waits?.earliest_ms ?? 0;
    return (
      <span class="standing" title={job.waits?.text}>
        {at > now && <b>{t('jobs.expected', { time: moment(at, now) })}, </b>}
        <span lang="en">{job.waits?.text ?? job.reason}</span>
      </span>
    );
  }
  const broken = job.broken?.[0];
  if (broken) {
    return (
      <span class="standing warn" lang="en" title={broken.text}>
        <Swatch state="rule" /> {broken.rule}: {broken.text}
      </span>
    );
  }
  if (job.warning) {
    return (
      <span class="standing warn" lang="en" title={job.warning}>
        {job.warning}
      </span>
    );
  }
  return (
    <span class="standing" lang="en" title={job.reason}>
      {job.phase === 'succeeded' ? '' : job.reason}
    </span>
  );
}
