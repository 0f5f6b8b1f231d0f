// The request as it was submitted, and how to submit it again with changes.

import { useEffect, useState } from 'preact/hooks';

import { api } from '../api/client';
import type { JobView } from '../api/types';
import { t } from '../i18n';
import { Command } from '../ui/parts';
import { yaml } from './yaml';

export function ConfigTab({ job }: { job: JobView }) {
  const [request, setRequest] = useState<Record<string, unknown> | null>(null);
  const [values, setValues] = useState(false);
  useEffect(() => {
    let here = true;
    api.request(job.id).then(
      (found) => here && setRequest(found),
      () => undefined,
    );
    return () => {
      here = false;
    };
  }, [job.id]);
  if (!request) return null;
  const env = request['env'] as Record<string, string> | undefined;
  const secret = env && Object.keys(env).length > 0 && !values;
  const hidden = Object.fromEntries(Object.keys(env ?? {}).map((name) => [name, '…']));
  const shown = secret ? { ...request, env: hidden } : request;
  return (
    <div class="config">
      <section>
        <div class="section-head">
          <h2>{t('job.request')}</h2>
          {env && Object.keys(env).length > 0 && (
            <button type="button" class="quiet-link" onClick={() => setValues(!values)}>
              {t(values ? 'job.hideValues' : 'job.showValues')}
            </button>
          )}
        </div>
        <pre class="paper">{yaml(shown)}</pre>
      </section>
      <section>
        <h2>{t('job.forkText')}</h2>
        <Command text={`madang fork ${job.id}`} />
      </section>
    </div>
  );
}
