// What an overview shows of metrics and log: the first two plots, the last lines.

import { useEffect, useMemo, useState } from 'preact/hooks';

import { isLive } from '../api/store';
import type { JobView } from '../api/types';
import { t } from '../i18n';
import { PLAIN, spans } from '../logs/ansi';
import { Follower, type LogState } from '../logs/follow';
import { Ansi } from './LogsTab';
import { Plot, useReports } from './MetricsTab';

const PLOTS = 2;
const LINES = 8;
const FIRST = [0];

export function MetricsPreview({ job }: { job: JobView }) {
  const feed = useReports(job, FIRST);
  const keys = useMemo(() => feed.series.get(0)?.keys().slice(0, PLOTS) ?? [], [feed]);
  if (!keys.length) return null;
  return (
    <div class="plots">
      {keys.map((key) => (
        <Plot key={key} name={key} feed={feed} members={FIRST} axis="step" smooth={false} />
      ))}
    </div>
  );
}

export function LogPreview({ job }: { job: JobView }) {
  const [state, setState] = useState<LogState | null>(null);
  useEffect(() => {
    const follower = new Follower(job.id, 0, () => isLive(job), setState, LINES);
    return () => follower.stop();
  }, [job.id, job.attempt, isLive(job)]);
  const lines = state?.buffer.shown().slice(-LINES) ?? [];
  if (!lines.length) return null;
  const href = `/jobs/${encodeURIComponent(job.id)}/logs`;
  return (
    <section>
      <div class="section-head">
        <h2>{t('job.lastLines')}</h2>
        <a class="quiet-link" href={href}>
          {t('job.logs')}
        </a>
      </div>
      <a class="log log-preview" href={href} aria-label={t('job.lastLines')}>
        {lines.map((line, i) => (
          <div key={i} class="log-line">
            {spans(line, PLAIN).spans.map((span, j) => (
              <Ansi key={j} span={span} find="" />
            ))}
          </div>
        ))}
      </a>
    </section>
  );
}
