import { connection, overview } from './api/store';
import { t } from './i18n';

export function App() {
  const now = overview.value;
  return (
    <main>
      <h1>{t('app.name')}</h1>
      <p>{connection.value === 'on' ? t('live.on') : t('live.wait')}</p>
      {now && <p>{t('unit.gpus', { n: now.gpus.total })}</p>}
    </main>
  );
}
