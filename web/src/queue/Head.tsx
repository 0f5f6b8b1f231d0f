// Why the first of the queue waits, when it starts, and what that is reckoned from.

import { useEffect, useState } from 'preact/hooks';

import { api } from '../api/client';
import { gpusOf, nowMs, touched } from '../api/store';
import type { JobView, Why } from '../api/types';
import { moment, duration } from '../format';
import { t } from '../i18n';
import { Command } from '../ui/parts';
import { devices, sizeOf, startText } from '../words';

const WHY_MS = 5_000;

export function useWhy(job: JobView | undefined): Why | null {
  const [why, setWhy] = useState<{ id: string; why: Why } | null>(null);
  const id = job?.id ?? '';
  const times = touched.value.get(id) ?? 0;
  useEffect(() => {
    if (!id) return;
    let here = true;
    const ask = (): void => {
      if (document.hidden) return;
      api.why(id).then(
        (answer) => here && setWhy({ id, why: answer }),
        () => undefined,
      );
    };
    ask();
    const timer = setInterval(ask, WHY_MS);
    return () => {
      here = false;
      clearInterval(timer);
    };
  }, [id, times]);
  return why?.id === id ? why.why : null;
}

export function HeadOfQueue({ job }: { job: JobView }) {
  const asked = useWhy(job);
  const why = asked ?? job.waits;
  const now = nowMs.value;
  const known = why !== null && why.earliest_ms > 0;
  const tries = asked?.try ?? [];
  return (
    <section class="head" aria-label={t('queue.head')}>
      <div class="head-job">
        <h2>{t('queue.head')}</h2>
        <a class="mono" href={`/jobs/${encodeURIComponent(job.id)}`}>
          {job.id}
        </a>
        <span class="quiet">
          {job.members > 1 ? `${sizeOf(job)} = ${devices(gpusOf(job))}` : sizeOf(job)},{' '}
          {job.project}, {t('queue.since', { time: duration(now - job.submitted_ms) })}
        </span>
      </div>
      <div class="head-why">
        <h3>{t('queue.why')}</h3>
        <p lang="en">{why?.text ?? job.reason}</p>
        {tries.length > 0 && (
          <ul class="tries" aria-label={t('queue.tries')}>
            {tries.slice(0, 3).map((one) => (
              <li key={one} lang="en">
                {one}
              </li>
            ))}
          </ul>
        )}
      </div>
      <div class="head-when">
        <h3>{t('queue.expected')}</h3>
        <p class="head-time">{known ? moment(why.earliest_ms, now) : t('queue.unknown')}</p>
        <p class="quiet">
          {known && `${startText(why.earliest_ms, now)}; `}
          {why?.basis ? <span lang="en">{t('queue.basis', { basis: why.basis })}</span> : null}
        </p>
      </div>
      <div class="head-guide">
        <Command text={`madang why ${job.id}`} />
      </div>
    </section>
  );
}
