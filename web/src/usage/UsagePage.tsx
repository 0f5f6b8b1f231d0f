// Who holds what now against what they may, and who held, used, wasted and waited over a time.

import { Segmented } from '../ui/parts';
import { t } from '../i18n';
import { projects } from '../api/store';
import { query, setQuery } from '../router';
import { Now } from './Now';
import { BYS, SINCES, Window } from './Window';

export default function UsagePage() {
  const since = SINCES.find((one) => one === query.value.get('since')) ?? '7d';
  const by = BYS.find((one) => one === query.value.get('by')) ?? 'project';
  if (!projects.value) return <main id="content" class="content" aria-busy="true" />;
  return (
    <main id="content" class="content usage-page">
      <Now all={projects.value} />
      <div class="page-head usage-window-head">
        <h2>{t('usage.window')}</h2>
        <Segmented
          label={t('usage.since')}
          bare
          value={since}
          options={SINCES.map((value) => ({ value, text: t(`usage.${value}`) }))}
          choose={(next) => setQuery({ since: next === '7d' ? null : next })}
        />
        <Segmented
          label={t('usage.by')}
          value={by}
          options={BYS.map((value) => ({ value, text: t(`usage.by_${value}`) }))}
          choose={(next) => setQuery({ by: next === 'project' ? null : next })}
        />
      </div>
      <Window since={since} by={by} />
    </main>
  );
}
