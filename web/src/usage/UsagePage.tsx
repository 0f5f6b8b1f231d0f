// Who holds what now, against their quota.

import { gpusOf, overview, projects, waiting } from '../api/store';
import type { ProjectView } from '../api/types';
import { byName, count, percent } from '../format';
import { t } from '../i18n';
import { Command } from '../ui/parts';
import { devices } from '../words';

export default function UsagePage() {
  const all = projects.value;
  const total = overview.value?.gpus.total ?? 0;
  if (!all) return <main id="content" class="content" aria-busy="true" />;
  const sorted = [...all].sort((a, b) => b.used_gpus - a.used_gpus || byName(a.id, b.id));
  const used = sorted.reduce((sum, project) => sum + project.used_gpus, 0);
  // A bar is the whole yard, so that its length says how much of it is held.
  const longest = Math.max(1, total, ...sorted.map((one) => one.quota_gpus ?? 0));
  const asked = new Map<string, number>();
  for (const job of waiting.value) {
    asked.set(job.project, (asked.get(job.project) ?? 0) + gpusOf(job));
  }
  const holders = sorted.filter((one) => one.used_gpus > 0).length;
  return (
    <main id="content" class="content">
      <div class="page-head">
        <h1>{t('usage.title')}</h1>
        <p>{t('usage.sentence', { used: count(used), units: devices(total), n: holders })}</p>
      </div>
      <ul class="usage">
        {sorted.map((project) => (
          <Line
            key={project.id}
            project={project}
            longest={longest}
            asked={asked.get(project.id) ?? 0}
          />
        ))}
      </ul>
      <div class="usage-foot">
        <p class="quiet">{t('usage.set')}</p>
        <Command
          text={`madang project set ${sorted[0]?.id ?? 'default'} --quota ${Math.max(1, Math.floor(total / 2))}`}
        />
      </div>
    </main>
  );
}

function Line(props: { project: ProjectView; longest: number; asked: number }) {
  const { id, quota_gpus: quota, used_gpus: used } = props.project;
  const over = quota === null ? 0 : Math.max(0, used - quota);
  const width = (n: number): string => `${(n / props.longest) * 100}%`;
  return (
    <li>
      <a class="usage-name" href={`/?group=project&where=${encodeURIComponent(`project:${id}`)}`}>
        <b>{id}</b>
        <span>
          {quota === null
            ? `${count(used)}, ${t('usage.noQuota')}`
            : t('fleet.ofQuota', { held: count(used), quota: count(quota) })}
        </span>
      </a>
      <div class="usage-bar">
        <i class="usage-used" style={{ width: width(used - over) }} />
        {over > 0 && (
          <i class="usage-over" style={{ width: width(over), left: width(used - over) }} />
        )}
        {props.asked > 0 && (
          <i
            class="usage-asked"
            style={{
              left: width(used),
              width: `min(${width(props.asked)}, ${100 - (used / props.longest) * 100}%)`,
            }}
          />
        )}
        {quota !== null && quota > 0 && (
          <i
            class="usage-quota"
            style={{ left: width(quota) }}
            title={t('fleet.quota', { n: quota })}
          />
        )}
      </div>
      <span class="usage-note">
        {over > 0 ? (
          <em class="warn">{t('usage.over', { n: over })}</em>
        ) : quota ? (
          percent(used / quota)
        ) : null}
        {props.asked > 0 && <small>{t('usage.waiting', { units: devices(props.asked) })}</small>}
      </span>
    </li>
  );
}
