// One job: how it stands, its numbers, its words, what happened, what it was asked to be.

import { signal, useSignal } from '@preact/signals';
import type { ComponentChildren } from 'preact';
import { useEffect } from 'preact/hooks';

import { api, ApiError } from '../api/client';
import { endedLately, gpusOf, isLive, jobs, nowMs, setJobs, touched } from '../api/store';
import type { JobView } from '../api/types';
import { meanOf, readings, rowsOfJob, units } from '../fleet/state';
import { count, duration, percent } from '../format';
import { t } from '../i18n';
import { CopyButton, Dialog, Empty, Kpi, PhasePill } from '../ui/parts';
import { phaseText, timeIn } from '../words';
import { ConfigTab } from './ConfigTab';
import { DiagnoseTab } from './DiagnoseTab';
import { EventsTab } from './EventsTab';
import { LogsTab } from './LogsTab';
import { MetricsTab } from './MetricsTab';
import { OverviewTab } from './OverviewTab';

const TABS = ['overview', 'diagnose', 'metrics', 'logs', 'events', 'config'] as const;
type Tab = (typeof TABS)[number];

/** The job as the store has it, else as the daemon answers; looks again when events name it. */
function useJob(id: string): { job: JobView | null; missing: boolean } {
  const fetched = useSignal<JobView | null>(null);
  const missing = useSignal(false);
  const known = jobs.value?.get(id) ?? endedLately.value.find((job) => job.id === id) ?? null;
  const times = touched.value.get(id) ?? 0;
  useEffect(() => {
    const stop = new AbortController();
    api
      .job(id, stop.signal)
      .then((job) => {
        fetched.value = job;
        missing.value = false;
      })
      .catch((error: unknown) => {
        if (error instanceof ApiError && error.status === 404) missing.value = true;
      });
    return () => stop.abort();
  }, [id, times]);
  const newer = fetched.value && !(known && isLive(known)) ? fetched.value : null;
  return { job: newer ?? known ?? fetched.value, missing: missing.value };
}

export default function JobPage({ id, tab }: { id: string; tab: string }) {
  const { job, missing } = useJob(id);
  if (!job) {
    return (
      <main id="content" class="content center" aria-busy={!missing}>
        {missing && (
          <Empty title={t('job.notFound', { id })}>
            <p>{t('job.notFoundText')}</p>
            <a class="button" href="/jobs">
              {t('nav.jobs')}
            </a>
          </Empty>
        )}
      </main>
    );
  }
  const at = TABS.find((one) => one === tab) ?? 'overview';
  return (
    <main id="content" class="content job">
      <Head job={job} />
      <Kpis job={job} />
      <nav class="tabs" aria-label={job.id}>
        {TABS.map((one) => (
          <a
            key={one}
            href={hrefOf(job, one)}
            {...(one === at ? { 'aria-current': 'page' as const } : {})}
          >
            {t(`job.${one}`)}
          </a>
        ))}
      </nav>
      <TabBody job={job} tab={at} />
    </main>
  );
}

const hrefOf = (job: JobView, tab: Tab): string =>
  `/jobs/${encodeURIComponent(job.id)}${tab === 'overview' ? '' : `/${tab}`}`;

function TabBody({ job, tab }: { job: JobView; tab: Tab }): ComponentChildren {
  switch (tab) {
    case 'overview':
      return <OverviewTab job={job} />;
    case 'diagnose':
      return <DiagnoseTab job={job} />;
    case 'metrics':
      return <MetricsTab job={job} />;
    case 'logs':
      return <LogsTab job={job} />;
    case 'events':
      return <EventsTab job={job} />;
    case 'config':
      return <ConfigTab job={job} />;
  }
}

type Asked = 'stop' | 'requeue' | null;
const failed = signal('');

function Head({ job }: { job: JobView }) {
  const asked = useSignal<Asked>(null);
  const act = async (what: 'stop' | 'requeue'): Promise<void> => {
    asked.value = null;
    failed.value = '';
    try {
      setJobs([await (what === 'stop' ? api.stop(job.id) : api.requeue(job.id))]);
    } catch (error) {
      failed.value = error instanceof Error ? error.message : String(error);
    }
  };
  const alive = isLive(job) && job.phase !== 'stopping';
  return (
    <>
      <div class="job-head">
        <h1 class="mono">{job.id}</h1>
        <PhasePill phase={job.phase} text={phaseText(job, nowMs.value)} />
        <span class="job-project">
          {job.project}, {job.owner}
        </span>
        <span class="grow" />
        <CopyButton text={job.id} label={t('job.copyId')} />
        <CopyButton text={`madang fork ${job.id}`} label={t('job.copyFork')} />
        {alive && job.phase !== 'waiting' && (
          <button type="button" class="button" onClick={() => (asked.value = 'requeue')}>
            {t('job.requeue')}
          </button>
        )}
        {alive && (
          <button type="button" class="button" onClick={() => (asked.value = 'stop')}>
            {t('job.stop')}
          </button>
        )}
      </div>
      {failed.value && (
        <p class="notice" role="alert">
          {t('error.title')}: {failed.value}
        </p>
      )}
      {asked.value && (
        <Sure
          job={job}
          what={asked.value}
          close={() => (asked.value = null)}
          act={(what) => void act(what)}
        />
      )}
    </>
  );
}

interface SureProps {
  job: JobView;
  what: 'stop' | 'requeue';
  close: () => void;
  act: (what: 'stop' | 'requeue') => void;
}

function Sure({ job, what, close, act }: SureProps) {
  const stop = what === 'stop';
  return (
    <Dialog title={t(stop ? 'job.stopSure' : 'job.requeueSure', { id: job.id })} close={close}>
      <p>{stop ? t('job.stopText', { grace: duration(job.grace_ms) }) : t('job.requeueText')}</p>
      <div class="dialog-buttons">
        <button type="button" class="button" onClick={close}>
          {t('job.cancel')}
        </button>
        <button
          type="button"
          class={`button ${stop ? 'danger' : 'primary'}`}
          onClick={() => act(what)}
        >
          {t(stop ? 'job.stop' : 'job.requeue')}
        </button>
      </div>
    </Dialog>
  );
}

function Kpis({ job }: { job: JobView }) {
  const now = nowMs.value;
  const busy = meanOf(rowsOfJob(units.value, job.id), readings.value.util);
  const waited = (job.running_ms || job.ended_ms || now) - job.submitted_ms;
  const { isSlots } = units.value;
  const model = isSlots ? '' : job.profile || modelOf(job);
  const members = t('job.gpusNote', { members: job.members });
  return (
    <div class="kpis">
      <Kpi
        label={isSlots ? t('job.slots') : t('job.gpus')}
        value={count(gpusOf(job))}
        note={model ? `${model}, ${members}` : members}
      />
      {job.running_ms > 0 && (
        <Kpi
          label={t('job.runtime')}
          value={duration(timeIn(job, now))}
          note={job.time_ms ? t('job.limit', { time: duration(job.time_ms) }) : t('job.noLimit')}
        />
      )}
      <Kpi label={t('job.waited')} value={duration(waited)} />
      {!Number.isNaN(busy) && (
        <Kpi label={t('job.util')} value={percent(busy)} note={t('job.utilNote')} />
      )}
      {job.attempt > 0 && (
        <Kpi
          label={t('job.attempt')}
          value={job.attempt}
          note={
            job.retries
              ? t('job.failures', { failures: job.failures, retries: job.retries })
              : t('job.noRetries')
          }
        />
      )}
    </div>
  );
}

function modelOf(job: JobView): string {
  const [row] = rowsOfJob(units.value, job.id);
  if (row === undefined) return '';
  return units.value.nodes[units.value.node[row]!]!.model;
}
