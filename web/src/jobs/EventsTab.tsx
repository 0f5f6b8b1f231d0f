// What happened to a job, newest first.

import { useEffect, useState } from 'preact/hooks';

import { api } from '../api/client';
import { nowMs, touched } from '../api/store';
import type { EventView, JobView } from '../api/types';
import { ago, clock } from '../format';
import { t } from '../i18n';

export function EventsTab({ job }: { job: JobView }) {
  const [events, setEvents] = useState<EventView[] | null>(null);
  const times = touched.value.get(job.id) ?? 0;
  useEffect(() => {
    let here = true;
    const after = events?.at(-1)?.seq ?? 0;
    api.events(job.id, after).then(
      (more) => here && setEvents((known) => [...(known ?? []), ...newOnes(known, more)]),
      () => undefined,
    );
    return () => {
      here = false;
    };
  }, [job.id, times]);
  if (!events) return null;
  const now = nowMs.value;
  if (!events.length) return <p class="quiet">{t('events.none')}</p>;
  return (
    <ol class="events">
      {[...events].reverse().map((event) => (
        <li key={event.seq} class={toneOf(event.kind)}>
          <time dateTime={new Date(event.at_ms).toISOString()} title={ago(now - event.at_ms)}>
            {clock(event.at_ms, now)}
          </time>
          <i />
          <div>
            <p lang="en">{event.text}</p>
            <small>
              {event.kind}
              {event.node && <code> {event.node}</code>}
            </small>
          </div>
        </li>
      ))}
    </ol>
  );
}

function newOnes(known: readonly EventView[] | null, more: readonly EventView[]): EventView[] {
  const last = known?.at(-1)?.seq ?? 0;
  return more.filter((event) => event.seq > last);
}

function toneOf(kind: string): string {
  if (/Lost|Rejected/.test(kind)) return 'bad';
  if (/Bound|Started|Submitted/.test(kind)) return 'go';
  return '';
}
