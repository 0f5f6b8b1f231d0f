// The request as it was submitted, and how to submit it again with changes.

import { useEffect, useState } from 'preact/hooks';

import { api } from '../api/client';
import { me } from '../api/store';
import type { JobView } from '../api/types';
import { t } from '../i18n';
import { barred, maySubmit } from '../may';
import { Command } from '../ui/parts';
import { yaml } from './yaml';

export function ConfigTab({ job }: { job: JobView }) {
  const [request, setRequest] = useState<Record<string, unknown> | null>(null);
  const [values, setValues] = useState(false);
  const bar = barred(job);
  useEffect(() => {
    let here = true;
    if (!me.value) return;
    if (bar && job.env_names.length) {
      setRequest(withoutValues(job)); // the daemon would refuse: the request has values
      return;
    }
    api.request(job.id).then(
      (found) => here && setRequest(found),
      () => here && setRequest(withoutValues(job)),
    );
    return () => {
      here = false;
    };
  }, [job.id, bar, me.value]);
  if (!request) return null;
  const env = request['env'] as Record<string, string> | undefined;
  // Values may be secrets: of other people's jobs there are only names, of one's own they are shown
  // when one asks.
  const names = Object.keys(env ?? {}).length ? Object.keys(env!) : job.env_names;
  const known = Object.keys(env ?? {}).length > 0 && !bar;
  const hidden = Object.fromEntries(names.map((name) => [name, '…']));
  const shown = names.length && !(known && values) ? { ...request, env: hidden } : request;
  return (
    <div class="config">
      <section>
        <div class="section-head">
          <h2>{t('job.request')}</h2>
          {names.length > 0 && !known && <span class="quiet">{t('may.values')}</span>}
          {known && (
            <button type="button" class="quiet-link" onClick={() => setValues(!values)}>
              {t(values ? 'job.hideValues' : 'job.showValues')}
            </button>
          )}
        </div>
        <pre class="paper">{yaml(shown)}</pre>
      </section>
      {maySubmit() && (
        <section>
          <h2>{t('job.forkText')}</h2>
          <Command text={`madang fork ${job.id}`} />
        </section>
      )}
    </div>
  );
}

/** What everybody may see of what was asked for. */
function withoutValues(job: JobView): Record<string, unknown> {
  const { name, project, members, gpus, command, category, purpose, retries, image, memo } = job;
  const asked = { name, project, members, gpus, command, category, purpose, retries };
  return { ...asked, ...(image && { image }), ...(memo && { memo }) };
}
