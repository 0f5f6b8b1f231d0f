// Who waits, in the order in which the yard serves them, and why; what the first waits for; what comes.

import { gpusOf, inSight, jobs, nowMs, projects, waiting } from '../api/store';
import { tenancy } from '../api/tenancy';
import type { JobView } from '../api/types';
import { moment, duration } from '../format';
import { t } from '../i18n';
import { Command, Empty } from '../ui/parts';
import { usePolled } from '../ui/usePolled';
import { VirtualTable, type Column } from '../ui/VirtualTable';
import { devices, sizeOf, startText } from '../words';
import { Calendar } from './Calendar';
import { HeadOfQueue } from './Head';

const CALENDAR_MS = 15_000;
const NONE: readonly never[] = [];

export default function QueuePage() {
  const now = nowMs.value;
  const queue = waiting.value;
  const reservations = usePolled(tenancy.reservations, CALENDAR_MS, projects.value);
  const holes = usePolled(tenancy.holes, CALENDAR_MS, projects.value);
  const calendar = (
    <Calendar queue={queue} reservations={reservations ?? NONE} holes={holes ?? NONE} />
  );
  if (!jobs.value) return <main id="content" class="content" aria-busy="true" />;
  if (!queue.length) {
    return (
      <main id="content" class="content queue">
        {Boolean(reservations?.length || holes?.length) && calendar}
        <div class="empty-room">
          <Empty title={t('queue.empty')}>
            <p>{t('queue.emptyText')}</p>
            <Command text="madang try --gpus 8 -- python train.py" />
          </Empty>
        </div>
      </main>
    );
  }
  const asked = queue.reduce((sum, job) => sum + gpusOf(job), 0);
  const place = new Map(queue.map((job, at) => [job.id, at + 1]));
  return (
    <main id="content" class="content queue">
      <div class="page-head">
        <h1>{t('queue.title')}</h1>
        <p>{t('queue.sentence', { n: queue.length, units: devices(asked) })}</p>
      </div>
      <HeadOfQueue job={queue[0]!} />
      {calendar}
      <VirtualTable
        label={t('queue.title')}
        rows={queue}
        columns={columns(now, place)}
        rowHeight={56}
        keyOf={(job) => job.id}
        inSight={(ids) => (inSight.value = ids)}
        hrefOf={(job) => `/jobs/${encodeURIComponent(job.id)}`}
      />
    </main>
  );
}

function columns(now: number, place: ReadonlyMap<string, number>): Column<JobView>[] {
  return [
    {
      key: 'job',
      title: t('col.job'),
      width: '24%',
      cell: (job) => (
        <span class="queue-job">
          <b>{place.get(job.id)}</b>
          <span>
            <code>{job.id}</code>
            <small>
              {job.project}, {job.owner}
            </small>
          </span>
        </span>
      ),
    },
    { key: 'size', title: t('col.size'), width: '12%', cell: (job) => sizeOf(job) },
    {
      key: 'why',
      title: t('queue.why'),
      cell: (job) => (
        <span class="two-lines" lang="en" title={job.waits?.text}>
          {job.waits?.text ?? job.reason}
        </span>
      ),
    },
    {
      key: 'earliest',
      title: t('queue.earliest'),
      width: '24%',
      cell: (job) => (
        <span class="stack">
          {startText(job.waits?.earliest_ms ?? 0, now)}
          {job.waits && job.waits.earliest_ms > now && (
            <small title={job.waits.basis}>
              {moment(job.waits.earliest_ms, now)}
              {job.waits.basis && <span lang="en">, {job.waits.basis}</span>}
            </small>
          )}
        </span>
      ),
    },
    {
      key: 'time',
      title: t('job.waited'),
      width: '92px',
      number: true,
      cell: (job) => duration(now - job.submitted_ms),
    },
  ];
}
