// Who waits, in the order in which the yard serves them, and why.

import { gpusOf, inSight, jobs, nowMs, waiting } from '../api/store';
import type { JobView } from '../api/types';
import { clock, duration } from '../format';
import { t } from '../i18n';
import { Command, Empty } from '../ui/parts';
import { VirtualTable, type Column } from '../ui/VirtualTable';
import { devices, sizeOf, startText } from '../words';

export default function QueuePage() {
  const now = nowMs.value;
  const queue = waiting.value;
  if (!jobs.value) return <main id="content" class="content" aria-busy="true" />;
  if (!queue.length) {
    return (
      <main id="content" class="content center">
        <Empty title={t('queue.empty')}>
          <p>{t('queue.emptyText')}</p>
          <Command text="madang try --gpus 8 -- python train.py" />
        </Empty>
      </main>
    );
  }
  const asked = queue.reduce((sum, job) => sum + gpusOf(job), 0);
  const place = new Map(queue.map((job, at) => [job.id, at + 1]));
  return (
    <main id="content" class="content">
      <div class="page-head">
        <h1>{t('queue.title')}</h1>
        <p>{t('queue.sentence', { n: queue.length, units: devices(asked) })}</p>
      </div>
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
      width: '17%',
      cell: (job) => (
        <span class="stack">
          {startText(job.waits?.earliest_ms ?? 0, now)}
          {job.waits && job.waits.earliest_ms > now && (
            <small title={job.waits.basis}>{clock(job.waits.earliest_ms, now)}</small>
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
