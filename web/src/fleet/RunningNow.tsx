// Under a small fleet there is room: the jobs that hold it.

import { holding, jobs, nowMs } from '../api/store';
import { duration } from '../format';
import { t } from '../i18n';
import { Command, PhasePill } from '../ui/parts';
import { sizeOf, timeIn } from '../words';
import { hint } from './state';

const SHOWN_MAX = 12;

export function RunningNow() {
  const running = [...holding.value].sort((a, b) => b.n - a.n).slice(0, SHOWN_MAX);
  if (!jobs.value?.size) {
    return (
      <section class="below first">
        <h2>{t('fleet.nothingRuns')}</h2>
        <p>{t('jobs.emptyText')}</p>
        <Command text="madang run -- python train.py" />
        <p>
          <a href="/jobs">{t('fleet.ended')}</a>
        </p>
      </section>
    );
  }
  if (!running.length) return null;
  return (
    <section class="below">
      <h2>{t('fleet.runningNow')}</h2>
      <ul class="lines">
        {running.map((job) => (
          <li
            key={job.id}
            onPointerEnter={() => (hint.value = `job:${job.id}`)}
            onPointerLeave={() => (hint.value = '')}
          >
            <a href={`/jobs/${encodeURIComponent(job.id)}`}>
              <code>{job.id}</code>
              <PhasePill phase={job.phase} />
              <span>{job.project}</span>
              <span>{sizeOf(job)}</span>
              <span class="number">{duration(timeIn(job, nowMs.value))}</span>
            </a>
          </li>
        ))}
      </ul>
    </section>
  );
}
